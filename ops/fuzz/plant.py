"""A running worker on a private Redis, and what may be asked of it: whether it lives, is idle, and answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import redis

from deltabus import keys
from deltabus.embedded import EmbeddedRedis
from fuzz import corpus
from fuzz.tally import resident

#: Queues that the worker has.
QUEUES: Final = ("chat", "file")

#: Where jobs wait for it.
_WAITING: Final = [f"rq:queue:{name}{suffix}" for name in QUEUES for suffix in ("", ":intermediate")]

#: Seconds that a worker may take to start, to come to rest, and to answer a good task.
START: Final = 30.0
REST: Final = 90.0
ANSWER: Final = 20.0

#: Seconds between two looks.
LOOK: Final = 0.02

#: How the worker is set up: jobs end soon, one way or the other.
_SETTINGS: Final = """\
concurrency = 100
job_timeout = 10
max_retries = 1
retry_delay = 0.01
max_retry_delay = 0.05
max_deliveries = 2
result_ttl = 600
failure_ttl = 600
drain_timeout = 1
max_request_bytes = 1000000
max_file_bytes = 1000000
task_lines = 1
log_format = "json"

[providers.echo]
"""


class Plant:
    """Redis and worker; `close` ends both."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="deltabus-fuzz-")))
        (self._folder / "deltabus.toml").write_text(_SETTINGS, encoding="utf-8")
        self.url = self._stack.enter_context(EmbeddedRedis()).url
        self.redis = self._stack.enter_context(redis.Redis.from_url(self.url, socket_timeout=60))
        self._output = self._folder / "worker.log"
        self._read = 0
        self._started = 0
        self.redis.sadd("rq:queues", *(f"rq:queue:{name}" for name in QUEUES))
        self._start()

    def close(self) -> None:
        """End worker and Redis."""
        self._process.kill()
        self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._stack.close()

    def _start(self) -> None:
        self._started += 1
        environ = {
            key: value for key, value in os.environ.items() if not key.startswith(("DELTABUS_", "OPENAI_", "RQ_"))
        }
        name = f"fuzz{self._started}"
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603 # our own worker
                [sys.executable, "-P", "-m", "deltabus.cli", "worker", *QUEUES, "--supervised", "--name", name],
                cwd=self._folder,
                env={**environ, "DELTABUS_REDIS_URL": self.url, "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.PIPE,  # its end ends the worker, should this process be killed
                stdout=output,
                stderr=output,
            )
        self.name = f"{name}.{self._process.pid}"
        if not self.answers(START):
            raise RuntimeError(f"the worker does not start: {self._output.read_text(errors='replace')[-1000:]}")

    @property
    def pid(self) -> int:
        """Process id of the worker."""
        return self._process.pid

    @property
    def memory(self) -> int:
        """Bytes that the worker has."""
        return resident(self.pid)

    def ended(self) -> int | None:
        """The worker's exit code, if it has ended; then there is another one."""
        code = self._process.poll()
        if code is not None:
            self._start()
        return code

    def enqueue(self, job: str, fields: Mapping[Any, Any], queue: str = "chat") -> None:
        """Put a job there, as a producer in any language does it."""
        self.redis.hset(f"rq:job:{job}", mapping=dict(fields))
        self.redis.rpush(f"rq:queue:{queue}", job)

    def good(self, **echo: Any) -> str:
        """Enqueue a good task; its id."""
        job = f"good-{uuid.uuid4().hex}"
        body = {"messages": [{"role": "user", "content": "hello"}], "stream": True, **({"echo": echo} if echo else {})}
        data = json.dumps(["deltabus.tasks.chat", None, [{"request": body}], {}])
        self.enqueue(job, {**corpus.HASH, "data": data, **({"timeout": "3600"} if echo else {})})
        return job

    def answers(self, patience: float = ANSWER) -> bool:
        """Whether a good task is completed."""
        job = self.good()
        key = keys.log(job)
        deadline = time.monotonic() + patience
        last: Any = "0"
        while time.monotonic() < deadline and self._process.poll() is None:
            for _, entries in self.redis.xread({key: last}, block=1000) or ():
                last = entries[-1][0]
            if last == keys.SEAL.encode():
                message = self.redis.xrevrange(key, count=1)[0][1][b"event"]
                return b'"completed"' in message
        return False

    def command(self, *words: str) -> tuple[int, str]:
        """Exit code and output of a command of `deltabus`."""
        done = subprocess.run(  # noqa: S603 # our own command
            [sys.executable, "-P", "-m", "deltabus.cli", "--redis", self.url, *words],
            cwd=self._folder,
            capture_output=True,
            timeout=REST,
            check=False,
        )
        return done.returncode, (done.stdout or done.stderr).decode(errors="replace")

    def rests(self) -> bool:
        """Wait until nothing waits and nothing runs."""
        deadline = time.monotonic() + REST
        while time.monotonic() < deadline and self._process.poll() is None:
            # Twice: a job that is handed back goes from where the second look is to where the first one was.
            if self._is_idle() and self._is_idle():
                return True
            time.sleep(LOOK)
        return False

    def _is_idle(self) -> bool:
        waits = self.redis.exists(*_WAITING)
        return not waits and next(self.redis.scan_iter("rq:wip:*", count=1000), None) is None

    def lines(self) -> Iterator[dict[str, Any]]:
        """What the worker has logged since the last look; a line that is none of its own comes as `raw`."""
        with self._output.open("rb") as output:
            output.seek(self._read)
            text = output.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.split(b"\n"):
            if line.strip():
                try:
                    said = json.loads(line)
                except ValueError:
                    said = {"raw": line.decode(errors="replace")}
                yield said if isinstance(said, dict) else {"raw": str(said)}
