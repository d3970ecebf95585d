"""dramatiq: `dramatiq dramatiq_tasks --processes 1`, with its default of 8 threads and no results."""

import os
import sys

import dramatiq
from dramatiq.brokers.redis import RedisBroker

dramatiq.set_broker(RedisBroker(url=os.environ["REDIS_URL"]))


@dramatiq.actor
def noop() -> None:
    """Nothing."""


if __name__ == "__main__":
    for _ in range(int(sys.argv[1])):
        noop.send()
