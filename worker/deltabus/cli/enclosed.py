"""What goes with a question: pictures, files and sounds named on the command line."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from deltabus.cli.local import Given
from deltabus.cli.screens import Screen

if TYPE_CHECKING:
    from deltabus.bus import AsyncBus

#: How what the worker is to fetch begins; anything else is a file here.
_URLS: Final = ("http://", "https://", "s3://", "gs://", "az://")


class Enclosed:
    """The attachments of one chat task.

    Args:
        named: files here and URLs, by what they are: `image`, `file` or `audio`.

    Raises:
        click.UsageError: a file cannot be read.
    """

    def __init__(self, named: Mapping[str, Sequence[str]]) -> None:
        self._given = [(kind, _given(what)) for kind, values in named.items() for what in values]

    @asynccontextmanager
    async def attachments(self, bus: AsyncBus, screen: Screen) -> AsyncGenerator[list[dict[str, Any]]]:
        """For the task. Files here go through Redis, and are deleted there when the block is left."""
        async with AsyncExitStack() as stack:
            attachments = []
            for kind, given in self._given:
                source = await stack.enter_async_context(given.source(bus, screen))
                attachment = {"source": source, "as": kind}
                attachments.append(attachment | ({"filename": given.name} if given.name else {}))
            yield attachments


def _given(what: str) -> Given:
    if what.startswith(_URLS):
        return Given(None, path=None, url=what)
    return Given(what, path=None, url=None)
