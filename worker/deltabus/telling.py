"""The text of an answer, told piece by piece: nothing twice, nothing left out. Pure."""

from __future__ import annotations

from typing import Any

from deltabus.chat import accumulator
from deltabus.errors import TaskRestarted
from deltabus.events import AnyEvent, Completed, Delta, Snapshot, Started


class Telling:
    """Turns the events of one task into the pieces of its text.

    A later attempt may say again what an earlier one said; only what goes beyond that is told.
    """

    def __init__(self, task: str) -> None:
        self._task = task
        self._told: list[str] = []
        self._length = 0  # of what was told
        self._agreed = 0  # how much of it the current attempt has said too

    def feed(self, event: AnyEvent) -> str:
        """What this event adds.

        Raises:
            TaskRestarted: it contradicts what was told.
        """
        match event:
            case Started():
                self._agreed = 0
            case Delta():
                return self._say("".join(map(accumulator.text, event.chunks)))
            case Snapshot():
                self._agreed = 0
                return self._say("".join(map(accumulator.text, event.chunks)))
            case Completed():
                return self._conclude(_content(event.result))
        return ""

    def _say(self, words: str) -> str:
        if self._agreed < self._length:
            told = "".join(self._told)
            self._told = [told]
            known = told[self._agreed : self._agreed + len(words)]
            if not words.startswith(known):
                raise TaskRestarted(self._task)
            self._agreed += len(known)
            words = words[len(known) :]
        if words:
            self._told.append(words)
            self._length += len(words)
            self._agreed = self._length
        return words

    def _conclude(self, content: str | None) -> str:
        """Tell what was not streamed, and make sure that nothing was told which is not in the result."""
        if content is not None and (self._length == 0 or content.startswith("".join(self._told))):
            self._agreed = 0
            return self._say(content)
        if self._agreed < self._length:
            raise TaskRestarted(self._task)
        return ""


def _content(result: Any) -> str | None:
    """The text of the first choice of a completion."""
    match result:
        case {"choices": [{"message": {"content": str(content)}}, *_]}:
            return content
        case _:
            return None
