"""RQ: `rq worker bench`, and `rq worker -w rq.SimpleWorker bench`."""

import os
import sys
import time

from redis import Redis
from rq import Queue


def noop() -> None:
    """Nothing."""


def stream(url: str, job: str) -> None:
    """One stream with the OpenAI SDK, published chunk by chunk."""
    from openai import OpenAI

    there = Redis.from_url(os.environ["REDIS_URL"])
    client = OpenAI(base_url=url, api_key="none", max_retries=0)
    for chunk in client.chat.completions.create(
        model="bench-model", messages=[{"role": "user", "content": "Hello"}], stream=True
    ):
        there.publish(f"stream:{job}", chunk.model_dump_json())


def main() -> None:
    queue = Queue("bench", connection=Redis.from_url(os.environ["REDIS_URL"]))
    begun = time.perf_counter()
    match sys.argv[1:]:
        case ["stream", url]:
            queue.enqueue("rq_tasks.stream", url, "one", job_timeout=3600)
        case ["many", count]:
            queue.enqueue_many([Queue.prepare_data("rq_tasks.noop") for _ in range(int(count))])
        case [count]:
            for _ in range(int(count)):
                queue.enqueue("rq_tasks.noop")
    print(time.perf_counter() - begun)


if __name__ == "__main__":
    main()
