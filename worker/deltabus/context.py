"""What a task function gets: its task, and the means to do it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from deltabus.depot import Depot
from deltabus.envelope import Envelope
from deltabus.errors import InvalidRequest
from deltabus.log import Attempt
from deltabus.provider import Provider, Request
from deltabus.registry import Registry
from deltabus.settings import Settings
from deltabus.temporary import TemporaryFiles

R = TypeVar("R", bound=Request)


@dataclass(slots=True, eq=False)
class Context:
    """One attempt, as a task function sees it."""

    task: str
    envelope: Envelope
    attempt: Attempt
    registry: Registry
    #: Where bytes come from and go to.
    depot: Depot
    #: What the task puts at a provider for the length of an attempt.
    temporary: TemporaryFiles
    settings: Settings
    #: Unix time in seconds at which the attempt is ended, if it has not ended by then.
    ends_at: float
    #: Says what has been accumulated, for the `failed` event.
    partial: Callable[[], Any] | None = None
    #: Subscribers were told how far it is: if it begins again, they are told that, too.
    told: bool = False
    #: It was begun before: what it is to do may have been done, and the answer lost.
    again: bool = False

    def provider(self, *, files: bool = False) -> Provider:
        """Who is to do it: whom the envelope names, else whoever takes the request's model.

        Args:
            files: the task is about the provider's files; see `Registry.choose`.

        Raises:
            UnknownProvider, Unsupported: there is none.
            InvalidRequest: the task has attachments, which only a chat can take.
        """
        if self.envelope.attachments:
            raise InvalidRequest(
                "`attachments` go with the messages of a chat; a file for this task goes into `request.source`",
                param="attachments",
            )
        return self.resolve(files=files)[1]

    def resolve(self, *, files: bool = False) -> tuple[str, Provider]:
        """Who is to do it, and under which name it is configured.

        Raises:
            UnknownProvider, Unsupported: there is none.
        """
        model = self.envelope.request.get("model")
        name = self.registry.choose(self.envelope.provider, model if isinstance(model, str) else None, files=files)
        if self.attempt.watch is not None:
            self.attempt.watch.provider = name
        return name, self.registry.resolve(name, None)

    def request(self, shape: type[R], /, **fields: Any) -> R:
        """A request for a provider, of that shape, with what every request of this attempt has."""
        return shape(
            headers=self.envelope.headers,
            task=self.task,
            attempt=self.attempt.number,
            deadline=self.ends_at,
            **fields,
        )


#: The body of a task function; what it returns is the result.
Handler = Callable[[Context], Awaitable[Any]]
