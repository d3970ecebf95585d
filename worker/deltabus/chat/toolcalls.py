"""Tool calls of a streamed answer, put together from their deltas.

Which call a delta belongs to:

- with an index: the call at that index, unless the delta brings an id that is not that call's (some
  servers give every call the index 0): then the call of that index and id, or a new one;
- without an index (Gemini): the call with that id, or a new one;
- with neither: a delta that names a function begins a call, any other continues the last one.

Id and type are set once; a name is appended unless it repeats the name so far; arguments are appended.
"""

from __future__ import annotations

from collections.abc import Iterable
from operator import attrgetter
from typing import Any

import msgspec

from deltabus.chat import increments


class Function:
    """Name and arguments of a call, also of one made in the deprecated way (`function_call`)."""

    __slots__ = ("arguments", "extra", "name")

    def __init__(self) -> None:
        self.name = bytearray()
        self.arguments = bytearray()
        self.extra: increments.Store = {}

    def add(self, delta: dict[str, Any]) -> None:
        """One increment."""
        for key, value in delta.items():
            if value is None:
                continue
            if key == "arguments":
                # Some servers send an object; the API says a string of JSON.
                self.arguments += increments.encode(value) if isinstance(value, str) else msgspec.json.encode(value)
            elif key != "name":
                increments.merge(self.extra, key, value)
            elif isinstance(value, str) and (name := increments.encode(value)) != self.name:
                self.name += name

    def whole(self) -> dict[str, Any]:
        """The function as a message has it."""
        return {"name": self.name.decode(), "arguments": self.arguments.decode(), **increments.plain(self.extra)}


class ToolCall:
    """One call. Its index is its place in the list that is being streamed."""

    __slots__ = ("extra", "function", "id", "index", "order", "type")

    def __init__(self, index: int, id: str | None, order: int) -> None:
        self.index = index
        self.id = id
        #: Calls are numbered as they begin.
        self.order = order
        self.type: str | None = None
        self.function: Function | None = None
        self.extra: increments.Store = {}

    def add(self, delta: dict[str, Any]) -> None:
        """One increment."""
        for key, value in delta.items():
            if key == "function":
                if isinstance(value, dict):
                    if self.function is None:
                        self.function = Function()
                    self.function.add(value)
            elif key == "type":
                if isinstance(value, str):
                    self.type = self.type or value
            elif value is not None and key not in ("index", "id"):
                increments.merge(self.extra, key, value)

    def whole(self) -> dict[str, Any]:
        """The call as a message has it. An id that never came is empty: it is not made up."""
        call: dict[str, Any] = {"id": self.id or ""}
        if self.type or self.function is not None:
            call["type"] = self.type or "function"
        if self.function is not None:
            call["function"] = self.function.whole()
        return {**call, **increments.plain(self.extra)}

    def delta(self) -> dict[str, Any]:
        """One increment that makes this call."""
        call = self.reference()
        if self.type is not None:
            call["type"] = self.type
        if self.function is not None:
            call["function"] = self.function.whole()
        return {**call, **increments.plain(self.extra)}

    def reference(self) -> dict[str, Any]:
        """An increment that adds nothing, but says which call is meant."""
        return {"index": self.index} if self.id is None else {"index": self.index, "id": self.id}


class ToolCalls:
    """The calls of one choice."""

    __slots__ = ("_all", "_at", "_known", "_last", "_next")

    def __init__(self) -> None:
        self._all: list[ToolCall] = []
        #: The call at each index that a delta without an id continues.
        self._at: dict[int, ToolCall] = {}
        #: Calls by index and id; by None and id, the first call with that id.
        self._known: dict[tuple[int | None, str], ToolCall] = {}
        self._last: ToolCall | None = None
        #: The first index above all others.
        self._next = 0

    def add(self, deltas: Iterable[dict[str, Any]]) -> None:
        """The tool calls of one delta."""
        for delta in deltas:
            call = self._find(delta)
            self._at[call.index] = self._last = call
            call.add(delta)

    def whole(self) -> list[dict[str, Any]]:
        """The calls as a message has them: by index, then as they began."""
        return [call.whole() for call in sorted(self._all, key=attrgetter("index", "order"))]

    def deltas(self) -> list[dict[str, Any]]:
        """Deltas that make these calls; what can follow them continues the same calls as here."""
        newest = {call.index: call for call in self._all}
        touched = [call for index, call in self._at.items() if newest[index] is not call]
        if self._last is not None and self._last is not (touched or self._all)[-1]:
            touched.append(self._last)
        return [call.delta() for call in self._all] + [call.reference() for call in touched]

    def _find(self, delta: dict[str, Any]) -> ToolCall:
        index, call_id = delta.get("index"), delta.get("id")
        if not isinstance(call_id, str) or not call_id:
            call_id = None
        if isinstance(index, int) and not isinstance(index, bool):
            return self._find_at(index, call_id)
        if call_id is not None:
            return self._known.get((None, call_id)) or self._begin(self._next, call_id)
        if self._last is None or _begins(delta):
            return self._begin(self._next, None)
        return self._last

    def _find_at(self, index: int, id: str | None) -> ToolCall:
        call = self._at.get(index)
        if call is None:
            return self._begin(index, id)
        if id is None or id == call.id:
            return call
        if call.id is None:
            self._identify(call, id)
            return call
        return self._known.get((index, id)) or self._begin(index, id)

    def _begin(self, index: int, id: str | None) -> ToolCall:
        call = ToolCall(index, None, len(self._all))
        self._all.append(call)
        self._next = max(self._next, index + 1)
        if id is not None:
            self._identify(call, id)
        return call

    def _identify(self, call: ToolCall, id: str) -> None:
        call.id = id
        self._known[call.index, id] = call
        first = self._known.setdefault((None, id), call)
        if call.order < first.order:
            self._known[None, id] = call


def _begins(delta: dict[str, Any]) -> bool:
    function = delta.get("function")
    return isinstance(function, dict) and bool(function.get("name"))
