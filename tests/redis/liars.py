"""Servers that tell everybody the same, as one does that has not heard of a change."""

from __future__ import annotations

import contextlib
import socketserver
import threading
from collections.abc import Iterator


class _Liar(socketserver.StreamRequestHandler):
    question: bytes
    answer: bytes

    def handle(self) -> None:
        while line := self.rfile.readline():
            if line.startswith(self.question):
                self.wfile.write(self.answer)
            elif line.startswith((b"SETINFO", b"HELLO")):
                self.wfile.write(b"-ERR unknown\r\n")


@contextlib.contextmanager
def _liar(question: bytes, answer: bytes) -> Iterator[int]:
    kind = type("Liar", (_Liar,), {"question": question, "answer": answer})
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), kind) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def sentinel(master: int) -> contextlib.AbstractContextManager[int]:
    """The port of a Sentinel that always names the server at this port."""
    text = str(master).encode()
    return _liar(b"GET-MASTER", b"*2\r\n$9\r\n127.0.0.1\r\n$%d\r\n%s\r\n" % (len(text), text))


def node(owner: int) -> contextlib.AbstractContextManager[int]:
    """The port of a node of a Cluster that says of all slots that they are at this port."""
    return _liar(b"SLOTS", b"*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n$9\r\n127.0.0.1\r\n:%d\r\n" % owner)
