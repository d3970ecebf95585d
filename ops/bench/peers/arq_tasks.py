"""arq: `arq arq_tasks.WorkerSettings`."""

import asyncio
import os
import sys

from arq import create_pool
from arq.connections import RedisSettings

SETTINGS = RedisSettings.from_dsn(os.environ["REDIS_URL"])


async def noop(_: object) -> None:
    """Nothing."""


class WorkerSettings:
    functions = (noop,)
    redis_settings = SETTINGS
    #: As many at once as deltabus has by default.
    max_jobs = 100


async def main() -> None:
    pool = await create_pool(SETTINGS)
    for _ in range(int(sys.argv[1])):
        await pool.enqueue_job("noop")


if __name__ == "__main__":
    asyncio.run(main())
