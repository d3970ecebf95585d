"""Uploads a picture, asks a model about it by its file id, and deletes it: with stock RQ.

    python picture_rq.py picture.jpg "What is in this image?" [model]

Needs `rq` and nothing of deltabus. REDIS_URL says where to.
"""

import os
import sys
import uuid
from pathlib import Path
from typing import Any

from redis import Redis
from rq import Queue
from rq.results import Result

#: Bytes of a chunk: all but the last have the same size, at most 1 MiB.
CHUNK = 1024 * 1024

#: Seconds that the picture waits in Redis for a worker, at the most.
TTL = 3600

#: Seconds that a task may take.
TIMEOUT = 600


def put_into_redis(redis: Redis, path: Path) -> str:
    """The picture as a blob; its id."""
    blob = uuid.uuid4().hex
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            with redis.pipeline() as pipe:  # Never without a TTL, whenever this process dies.
                pipe.rpush(f"deltabus:blob:{blob}", chunk).expire(f"deltabus:blob:{blob}", TTL).execute()
    return blob


def run(queue: Queue, function: str, request: dict[str, Any]) -> Any:
    """The result of a task."""
    job = queue.enqueue(f"deltabus.tasks.{function}", {"request": request}, job_timeout=TIMEOUT, description=function)
    result = job.latest_result(timeout=TIMEOUT)
    if result is None or result.type is not Result.Type.SUCCESSFUL:
        sys.exit(f"{function}: {result.exc_string if result else 'not done in time'}")
    return result.return_value


def main() -> None:
    if len(sys.argv) < 3:
        sys.exit('usage: python picture_rq.py picture.jpg "What is in this image?" [model]')
    path, question, model = Path(sys.argv[1]), sys.argv[2], (sys.argv[3:] or ["default"])[0]
    # redis-py's own patience is 5 seconds, and a task's result is waited for in one read.
    with Redis.from_url(os.environ.get("REDIS_URL", "redis://localhost:6379/0"), socket_timeout=TIMEOUT + 10) as redis:
        chats, files = (Queue(name, connection=redis, serializer="json") for name in ("chat", "file"))
        blob = put_into_redis(redis, path)
        source = {"blob": blob, "filename": path.name}
        file_id = run(files, "file", {"operation": "upload", "source": source, "purpose": "user_data"})["id"]
        redis.delete(f"deltabus:blob:{blob}")
        try:
            content = [{"type": "input_image", "file_id": file_id}, {"type": "input_text", "text": question}]
            answer = run(chats, "chat", {"model": model, "messages": [{"role": "user", "content": content}]})
            print(answer["choices"][0]["message"]["content"])
        finally:
            run(files, "file", {"operation": "delete", "file_id": file_id})


if __name__ == "__main__":
    main()
