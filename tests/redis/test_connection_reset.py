"""Connections that the peer resets while they are idle, on asyncio's own loop and on uvloop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
import redis
import redis.asyncio
import uvloop
from badline import BadLine, over_bad_line
from streaming import Streaming, streamed

from deltabus import connections

LOOPS = pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])

Loop = Callable[[], asyncio.AbstractEventLoop]


async def noticed(connection: redis.asyncio.Connection) -> None:
    """The loop has heard of the reset."""
    assert connection._writer is not None
    while not connection._writer.transport.is_closing():
        await asyncio.sleep(0)


@LOOPS
def test_the_log_goes_on_after_its_idle_connection_was_reset(redis_url: str, loop: Loop) -> None:
    async def main() -> None:
        async with over_bad_line(redis_url) as (b, line):
            stream = Streaming(await b.begin())
            await stream.write(1)
            await stream.flush()
            line.reset_all()
            await noticed(b.log._commit._connection)
            await stream.write(2)
            await stream.seal()
            assert streamed(await b.events()) == [1, 2]
            assert b.interrupts == []

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(main())


@LOOPS
def test_a_workers_client_says_of_a_reset_what_it_says_of_every_lost_connection(redis_url: str, loop: Loop) -> None:
    async def main() -> None:
        line = BadLine(redis_url)
        url = await line.start()
        blocking = redis.Redis.from_url(url)
        client = connections.asynchronous(blocking)
        connection = client.connection_pool.make_connection()
        await connection.connect()
        line.reset_all()
        await noticed(connection)
        with pytest.raises(redis.ConnectionError):
            await connection.send_command("PING")
        await client.aclose()
        blocking.close()
        await line.stop()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(main())
