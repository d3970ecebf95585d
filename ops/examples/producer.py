"""Enqueues a chat task with stock RQ and prints its id.

    python producer.py "Say hello" [model]

Needs `rq` and nothing of deltabus. REDIS_URL and DELTABUS_QUEUE say where to.
"""

import os
import sys

from redis import Redis
from rq import Queue

#: Seconds an attempt may take; without it, RQ writes its own default into the job, 180.
JOB_TIMEOUT = 3600


def main() -> None:
    if len(sys.argv) < 2:
        sys.exit('usage: python producer.py "Say hello" [model]')
    prompt, model = sys.argv[1], (sys.argv[2:] or ["default"])[0]
    request = {"model": model, "messages": [{"role": "user", "content": prompt}], "stream": True}
    with Redis.from_url(os.environ.get("REDIS_URL", "redis://localhost:6379/0")) as redis:
        # The serializer matters: a worker of deltabus never unpickles.
        queue = Queue(os.environ.get("DELTABUS_QUEUE", "chat"), connection=redis, serializer="json")
        # And so does a description: without one, RQ makes one of the whole call, and logs it, prompt and all.
        job = queue.enqueue(
            "deltabus.tasks.chat", {"request": request}, job_timeout=JOB_TIMEOUT, description="a chat task"
        )
    print(job.id)


if __name__ == "__main__":
    main()
