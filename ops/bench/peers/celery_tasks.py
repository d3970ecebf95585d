"""Celery: `celery -A celery_tasks worker --pool threads --concurrency 8`, with the Redis broker and backend."""

import os
import sys

from celery import Celery

app = Celery("celery_tasks", broker=os.environ["REDIS_URL"], backend=os.environ["REDIS_URL"])


@app.task
def noop() -> None:
    """Nothing."""


if __name__ == "__main__":
    from celery_tasks import noop as task  # its name is that of the module which the worker imports

    for _ in range(int(sys.argv[1])):
        task.delay()
