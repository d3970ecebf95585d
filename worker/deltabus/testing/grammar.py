"""The stream grammar check: whether a list of events is what one task's subscriber may see.

The rules are those of `deltabus.events`, and what follows from them for a reader::

    events = [event async for event in task.events()]
    check_events(events)

It takes what a subscriber collected, from the start or from a cursor, and what a log holds.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, Final, Protocol

from deltabus import keys
from deltabus.events import (
    AnyEvent,
    Completed,
    Delta,
    Progress,
    Retrying,
    Snapshot,
    Started,
    Terminal,
)

#: The id of an event that is not terminal.
_ID: Final = re.compile(r"([0-9]{1,16})-([0-9]{1,16})")


class GrammarError(AssertionError):
    """The events break the grammar; `violations` has a sentence for each break, in order."""

    def __init__(self, violations: list[str]) -> None:
        super().__init__("\n".join(violations))
        self.violations = violations


def check_events(events: Iterable[AnyEvent], *, after: str | None = None, complete: bool = True) -> None:
    """Check the events of one task, in the order in which they came.

    Args:
        events: what a subscriber got, or what a log holds.
        after: the cursor they were asked for with, where that was not the start.
        complete: whether they go on to the end; False checks a stream that was left early.

    Raises:
        GrammarError: with every violation.
    """
    if found := violations(events, after=after, complete=complete):
        raise GrammarError(found)


def violations(events: Iterable[AnyEvent], *, after: str | None = None, complete: bool = True) -> list[str]:
    """What `check_events` would raise, as sentences; none where all is well."""
    reader = _Reader(after)
    for place, event in enumerate(events):
        reader.read(place, event)
    if complete and not reader.ended:
        reader.found.append("the stream ends without a terminal event")
    return reader.found


class _Wrong(Protocol):
    def __call__(self, what: str) -> None: ...


class _Reader:
    """Walks the events once and keeps what the next one depends on."""

    def __init__(self, after: str | None) -> None:
        self.found: list[str] = []
        self.ended = after == keys.SEAL
        self._task: str | None = None
        self._retrying = False
        self._done = 0
        #: The last id, or None before the first one of a stream that is read from its start.
        self._last = _numbers(after) if after and not self.ended else None
        #: Content by choice of the current attempt; None where its beginning was not seen.
        self._content: dict[int, str] | None = None
        self._streamed = False

    def read(self, place: int, event: AnyEvent) -> None:
        where = f"event {place} ({type(event).__name__.lower()} {event.id or 'without id'})"

        def wrong(what: str) -> None:
            self.found.append(f"{where}: {what}")

        if self._task is not None and event.task != self._task:
            wrong(f"is of task {event.task}, the others are of {self._task}")
        self._task = self._task or event.task
        if self.ended:
            wrong("comes after the end")
            return
        if isinstance(event, Terminal):
            self._read_terminal(event, wrong)
            return
        numbers = _numbers(event.id)
        if numbers is None:
            wrong("has no id of the form <attempt>-<n>, counted from 1-0")
            return
        self._read_id(event, numbers, wrong)
        self._last = numbers
        self._read_content(event, wrong)

    def _read_id(self, event: AnyEvent, numbers: tuple[int, int], wrong: _Wrong) -> None:
        attempt, n = numbers
        last_attempt, last_n = self._last or (0, 0)
        if isinstance(event, Started) != (n == 0):
            wrong("`started`, and nothing else, has n = 0")
        elif numbers <= (last_attempt, last_n):
            wrong(f"does not come after {last_attempt}-{last_n}: it is out of order or a duplicate")
        elif attempt == last_attempt:
            if self._retrying:
                wrong("its attempt was over: `retrying` ends one")
            # A snapshot may stand for what was trimmed between the reader's place and itself.
            elif n != last_n + 1 and not isinstance(event, Snapshot):
                wrong(f"does not follow on {last_attempt}-{last_n}: events are missing")
        elif not isinstance(event, Started | Snapshot):
            wrong("begins an attempt, which only `started` does, or a `snapshot` that replaced it")
        elif self._last is not None and attempt != last_attempt + 1 and not isinstance(event, Snapshot):
            wrong(f"does not follow on attempt {last_attempt}: an attempt is missing")
        if attempt != last_attempt:
            self._retrying = False
            self._content = None
            self._streamed = False

    def _read_content(self, event: AnyEvent, wrong: _Wrong) -> None:
        match event:
            case Started():
                self._content, self._done = {}, 0
            case Delta(chunks=chunks) | Snapshot(chunks=chunks):
                if isinstance(event, Snapshot):
                    self._content = {}
                if not chunks:
                    wrong("has no chunks")
                self._streamed = True
                if self._content is not None:
                    for chunk in chunks:
                        _add(self._content, chunk)
            case Progress(done=done, total=total):
                if done < self._done:
                    wrong(f"goes back from {self._done} to {done} done")
                if total is not None and done > total:
                    wrong(f"is past its total: {done} of {total} done")
                self._done = done
            case Retrying():
                self._retrying = True
                self._content = None

    def _read_terminal(self, event: Terminal, wrong: _Wrong) -> None:
        self.ended = True
        if event.id != keys.SEAL:
            wrong(f"a terminal event has the id {keys.SEAL}")
        if not isinstance(event, Completed):
            return
        if self._retrying:
            wrong("no attempt was under way: `retrying` had ended the last one")
        whole = _contents(event.result)
        if whole is not None and self._content is not None and self._streamed:
            for index in sorted(whole.keys() | self._content.keys()):
                streamed, result = self._content.get(index, ""), whole.get(index, "")
                if streamed != result:
                    # Lengths, as an answer is not for a log.
                    wrong(
                        f"choice {index} streamed {len(streamed)} characters of content that are not "
                        f"the {len(result)} of the result"
                    )


def _numbers(id: str) -> tuple[int, int] | None:
    match = _ID.fullmatch(id)
    if match is None or int(match[1]) == 0 or id == keys.SEAL:
        return None
    return int(match[1]), int(match[2])


def _add(contents: dict[int, str], chunk: dict[str, Any]) -> None:
    for index, content in _said(chunk.get("choices"), "delta"):
        contents[index] = contents.get(index, "") + content


def _contents(result: Any) -> dict[int, str] | None:
    """The content of each choice of a completion; None where the result is not one."""
    choices = result.get("choices") if isinstance(result, dict) else None
    if not isinstance(choices, list):
        return None
    return dict(_said(choices, "message"))


def _said(choices: Any, where: str) -> Iterator[tuple[int, str]]:
    """Index and content of each choice. A log holds what the provider sent, of whatever shape."""
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, dict):
            index, said = choice.get("index"), choice.get(where)
            content = said.get("content") if isinstance(said, dict) else None
            yield index if isinstance(index, int) else 0, content if isinstance(content, str) else ""
