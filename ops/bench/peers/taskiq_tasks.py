"""taskiq-redis: `taskiq worker taskiq_tasks:broker --workers 1`, with the stream broker and the result backend."""

import asyncio
import os
import sys

from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

URL = os.environ["REDIS_URL"]
broker = RedisStreamBroker(url=URL).with_result_backend(RedisAsyncResultBackend(redis_url=URL))


@broker.task
async def noop() -> None:
    """Nothing."""


async def main() -> None:
    await broker.startup()
    for _ in range(int(sys.argv[1])):
        await noop.kiq()
    await broker.shutdown()


if __name__ == "__main__":
    asyncio.run(main())
