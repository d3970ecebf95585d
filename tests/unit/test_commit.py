"""Commands as they go over the wire, and where a server is."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import time

import pytest
import redis.asyncio
from hypothesis import given
from hypothesis import strategies as st

from deltabus import commit, keys, scripts
from deltabus.commit import pack_command
from deltabus.errors import BusUnavailable
from deltabus.topology.ownconnection import address, own_connection, resettable

words = st.one_of(st.binary(max_size=50), st.text(max_size=50), st.integers(-(2**63), 2**63))


@given(st.lists(words, max_size=8))
def test_a_command_is_packed_as_redis_py_would(arguments):
    connection = redis.Connection()
    assert pack_command("EVALSHA", *arguments) == b"".join(connection.pack_command("EVALSHA", *arguments))


@pytest.mark.parametrize(
    ("url", "where"),
    [
        ("redis://user:secret@example.com:6380/1", "example.com:6380"),
        ("redis://example.com", "example.com:6379"),
        ("unix:///run/redis.sock?password=secret", "/run/redis.sock"),
    ],
)
def test_an_address_has_no_password(url, where):
    assert address(redis.asyncio.Redis.from_url(url)) == where


def test_an_own_connection_has_the_clients_credentials_and_no_retries_of_its_own():
    client = redis.asyncio.Redis.from_url("redis://user:secret@example.com:6380/3", socket_timeout=7, protocol=3)
    connection = own_connection(client)
    assert (connection.host, connection.port, connection.db) == ("example.com", 6380, 3)
    assert (connection.username, connection.password) == ("user", "secret")
    assert connection.socket_timeout is None
    assert connection.retry.get_retries() == 0


class Swallowing:
    """A connection that has sent when it is cancelled, and returns all the same, as on Python 3.11."""

    def __init__(self):
        self.sent = asyncio.Event()
        self.connected = True

    async def send_packed_command(self, command, check_health=True):
        self.sent.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()

    async def disconnect(self, nowait=False):
        self.connected = False


def test_a_cancellation_that_is_swallowed_while_sending_counts_all_the_same():
    async def main():
        connection = resettable(Swallowing)()
        sending = asyncio.create_task(connection.send_packed_command(b"PING"))
        await connection.sent.wait()
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        assert not connection.connected  # the answer is still to come

    asyncio.run(main())


class Slow:
    """A connection on which every reply takes so many seconds of the loop's clock."""

    def __init__(self, seconds: float) -> None:
        self.is_connected = True
        self.sent = 0
        self._seconds = seconds
        self._ahead = 0.0
        asyncio.get_running_loop().time = lambda: time.monotonic() + self._ahead

    async def send_packed_command(self, command, check_health=True):
        self.sent += 1

    async def read_response(self, disable_decoding=False):
        self._ahead += self._seconds
        for _ in range(3):  # a timeout that has run out would be seen
            await asyncio.sleep(0)
        return b"PONG"

    async def disconnect(self, nowait=False):
        self.is_connected = False

    async def connect(self):
        self.is_connected = True


def test_a_redis_that_answers_all_the_time_is_not_given_up_however_long_it_takes_to_read(monkeypatch):
    async def main():
        slow = Slow(1)
        monkeypatch.setattr(commit, "own_connection", lambda _: slow)
        group = commit.GroupCommit(redis.asyncio.Redis(), (), patience=60)
        calls = [asyncio.create_task(group.call(b"PING")) for _ in range(300)]
        assert await asyncio.gather(*calls) == [b"PONG"] * 300
        assert slow.sent == 1
        await group.aclose()

    asyncio.run(main())


def test_a_redis_that_says_nothing_is_given_up(monkeypatch):
    async def main():
        slow = Slow(100)
        monkeypatch.setattr(commit, "own_connection", lambda _: slow)
        group = commit.GroupCommit(redis.asyncio.Redis(), (), patience=60)
        with pytest.raises(BusUnavailable):
            await group.call(b"PING")
        await group.aclose()

    asyncio.run(main())


def test_every_script_that_knows_the_seal_knows_the_same():
    known = [script for script in vars(scripts).values() if isinstance(script, scripts.Script)]
    sealing = [script for script in known if b"local SEAL" in script.source]
    assert len(sealing) >= 5
    assert all(f"local SEAL = '{keys.SEAL}'".encode() in script.source for script in sealing)


#: Packs commands while a signal's handler raises every fraction of a millisecond, until that has been met often.
INTERRUPTED = """
import signal
from deltabus.commit import pack_command

def raising(number, frame):
    raise TimeoutError

signal.signal(signal.SIGALRM, raising)
met = 0
while met < 200:
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.0002)
        for _ in range(10_000):  # where it was raised in what swallows it, as a tracer's callback, none comes
            pack_command(b"EVALSHA", "sha", *range(1000, 1100))
    except TimeoutError:
        met += 1
"""


def test_a_signal_whose_handler_raises_does_no_harm_to_a_command_that_is_packed() -> None:
    # Where coverage is measured, the signal may meet that while it holds a lock of its own.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], env=environment, check=False)
    assert done.returncode == 0
    assert pack_command("SET", b"key", 12) == b"*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$2\r\n12\r\n"
