"""Server-sent events: bytes in, events out, however the bytes are cut.

Follows the HTML standard, https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream,
and is more lenient where servers of this field are (openai-compat dialects):

- the last event counts even if the body ends before its blank line;
- the field `error`, which llama.cpp's server wrote until late 2025, is an event of type `error`;
- nothing is decoded here, so invalid UTF-8 and characters such as U+2028 pass through as they are.
"""

from __future__ import annotations

from deltabus.provider import PayloadTooLarge

#: Type of an event that names none (the standard's word).
MESSAGE = "message"
#: Type of an event that reports a failure.
ERROR = "error"

#: UTF-8 byte order mark; the standard strips one.
_BOM = b"\xef\xbb\xbf"

Event = tuple[str, bytes]


class SSEDecoder:
    """Decodes one body. `limit` is the size in bytes that a single event may have.

    Between calls it holds at most one unfinished event, and joins its parts once, when it is
    whole: the cost of a large event is linear in its size.
    """

    __slots__ = ("_between", "_head", "_limit", "_newline", "_parts", "_size", "_skip_lf")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        #: The first bytes, while they may still turn out to be a BOM; None once that is decided.
        self._head: bytes | None = b""
        #: The last read ended in CR: an LF at the start of the next one belongs to it.
        self._skip_lf = False
        #: Nothing is pending: the next byte begins an event.
        self._between = False
        self._parts: list[bytes] = []
        self._size = 0
        #: The unfinished event ends in a line end, so one more makes it whole.
        self._newline = False

    def feed(self, data: bytes) -> list[Event]:
        """Take what was read; return the events that are whole now: (type, data), in order.

        Raises:
            PayloadTooLarge: an event is over the limit.
        """
        if (
            self._between
            and data.find(b"\n") == len(data) - 2
            and data.startswith(b"data: ")
            and data.endswith(b"\n")
            and len(data) > 8
            and b"\r" not in data
        ):
            # One event of one line and nothing else: what a server that flushes each chunk makes of a read.
            return [(MESSAGE, data[6:-2])]
        self._between = False
        if self._head is not None:
            data = self._head + data
            if len(data) < len(_BOM) and _BOM.startswith(data):
                self._head = data
                return []
            self._head = None
            data = data.removeprefix(_BOM)
        if self._skip_lf and data:
            data = data.removeprefix(b"\n")
            self._skip_lf = False
        if b"\r" in data:
            self._skip_lf = data.endswith(b"\r")
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        if not data:
            return []
        if self._parts:
            whole = b"\n\n" in data or (self._newline and data.startswith(b"\n"))
            if not whole:
                self._keep(data)
                return []
            self._parts.append(data)
            data = b"".join(self._parts)
            self._parts.clear()
            self._size = 0
        blocks = data.split(b"\n\n")
        rest = blocks.pop()
        if rest:
            self._keep(rest)
        else:
            self._between = not self._skip_lf
        events: list[Event] = []
        for block in blocks:
            # Nearly every event of nearly every server is a single line of data.
            if len(block) > 6 and block.startswith(b"data: ") and b"\n" not in block:
                events.append((MESSAGE, block[6:]))
            elif (event := _event(block)) is not None:
                events.append(event)
        return events

    def close(self) -> list[Event]:
        """The body has ended: return the last event if it lacks only its blank line (or the end of its line)."""
        rest = b"".join(self._parts) if self._head is None else self._head
        self._parts.clear()
        event = _event(rest)
        return [] if event is None else [event]

    def _keep(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > self._limit:
            raise PayloadTooLarge(f"the provider sent an event of more than {self._limit} bytes (max_answer_bytes)")
        self._parts.append(data)
        self._newline = data.endswith(b"\n")


def _event(block: bytes) -> Event | None:
    """The event that the lines of a block make; None where they hold no data (comments, bare ids, heartbeats)."""
    kind = MESSAGE
    data: list[bytes] = []
    failure: bytes | None = None
    for line in block.split(b"\n"):
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            data.append(value)
        elif name == b"event":
            kind = value.decode("utf-8", "replace") or MESSAGE
        elif name == b"error":
            failure = value
    if failure is not None:
        return ERROR, failure
    if not any(data):
        return None
    return kind, b"\n".join(data)
