"""What Redis had to do between two moments, and a subscriber that costs little and counts deltas."""

from __future__ import annotations

import socket
import threading
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlsplit

import redis

#: What every delta of the provider holds once, whoever passes it on; JSON in JSON has it escaped.
NEEDLE: Final = b'"@'

#: Figures of `INFO`, and what they are called here.
_INFO: Final = {
    "total_commands_processed": "commands",
    "total_net_input_bytes": "bytes in",
    "total_net_output_bytes": "bytes out",
    "used_cpu_user": "cpu",
    "used_cpu_sys": "cpu",
}


def cost(client: redis.Redis) -> dict[str, float]:
    """What Redis has done so far: commands, bytes, and CPU seconds."""
    info = client.info("all")
    figures: dict[str, float] = {}
    for field, name in _INFO.items():
        figures[name] = figures.get(name, 0.0) + info[field]
    return figures


class Counter:
    """Counts the deltas on all channels of a Redis; a context manager."""

    def __init__(self, url: str) -> None:
        self._address = urlsplit(url)
        #: Deltas so far.
        self.deltas = 0

    def __enter__(self) -> Self:
        assert self._address.port is not None
        self._socket = socket.create_connection(("127.0.0.1", self._address.port))
        self._socket.sendall(b"PSUBSCRIBE *\r\n")
        self._over = False
        self._thread = threading.Thread(target=self._run, name="delta-counter", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over = True
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()

    def _run(self) -> None:
        last = b""
        try:
            while data := self._socket.recv(1 << 20):
                # A needle may lie across two reads.
                self.deltas += data.count(NEEDLE) + (last + data[:1] == NEEDLE)
                last = data[-1:]
        except ConnectionResetError:
            # What Redis sends to a socket that was shut down is answered with a reset.
            if not self._over:
                raise
