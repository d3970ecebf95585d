"""What all contenders of a run share: a private Redis, the provider, and a folder."""

from __future__ import annotations

import contextlib
import http.client
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import redis

from deltabus import Bus
from deltabus.embedded import EmbeddedRedis
from sidebyside import environments
from sidebyside.process import Process, answer_of, started, wait_until

T = TypeVar("T")

#: Redis is to drop nobody: neither a stream too many nor who counts deltas, and is slow on a machine that is busy.
ARGUMENTS: Final = ("--maxclients", "20000", "--client-output-buffer-limit", "pubsub 0 0 0")

#: Seconds that anything may take that is waited for.
PATIENCE = 120.0


@dataclass
class Stage:
    """Where the contenders run."""

    redis_url: str
    client: redis.Redis
    provider_port: int
    folder: Path
    #: Fewer tasks and shorter windows: the whole run takes under three minutes.
    quick: bool
    #: Without the peers, as tests want it.
    alone: bool = False
    #: What could not be measured, and why.
    notes: list[str] = field(default_factory=list)
    #: Counted from 0.
    repetition: int = 0

    def turns(self, contenders: Sequence[T]) -> Sequence[T]:
        """In which order they come: the one, and the next time the other way round."""
        return contenders if self.repetition % 2 == 0 else contenders[::-1]

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def said(self) -> str:
        """The last that any of the processes said."""
        output = self.folder / "output.log"
        return output.read_text(encoding="utf-8", errors="replace")[-2000:] if output.exists() else ""

    @property
    def python(self) -> str:
        """The interpreter that runs deltabus: one that has no more than deltabus needs."""
        return sys.executable if self.alone else str(environments.python("deltabus"))

    def pick(self, full: Any, quick: Any) -> Any:
        return quick if self.quick else full

    def provider_url(self, streams: int, *, chunks: int = 10**9, rate: float) -> str:
        """Base URL of an API: `streams` begin together, and say `chunks` deltas each, `rate` a second."""
        return f"http://127.0.0.1:{self.provider_port}/{streams}/{chunks}/{round(1e6 / rate)}/v1"

    def provider_stats(self) -> dict[str, int]:
        """What the provider counts: streams that are `open`, those `begun` so far, chunks `written`."""
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.provider_port, timeout=30)) as connection:
            connection.request("GET", "/stats")
            return dict(json.loads(connection.getresponse().read()))

    def clear(self) -> None:
        """An empty Redis, and nobody at the provider."""
        self.client.flushall()
        wait_until(lambda: self.provider_stats()["open"] == 0, PATIENCE, what="the provider is left alone")

    @contextmanager
    def worker(self, *options: str, url: str | None = None) -> Iterator[Process]:
        """A process of `deltabus worker`; with `url`, requests for the model `bench-model` go there."""
        with self.workers(1, *options, url=url) as (process,):
            yield process

    @contextmanager
    def workers(self, count: int, *options: str, url: str | None = None) -> Iterator[list[Process]]:
        """Several of them."""
        config = '[providers.echo]\nmodels = ["echo"]\n'
        if url is not None:
            config += f'\n[providers.bench]\nplugin = "openai"\nmodels = ["bench-model"]\nbase_url = "{url}"\n'
            config += 'api_key = "none-of-it-is-secret"\n'
        (self.folder / "deltabus.toml").write_text(config, encoding="utf-8")
        command = [self.python, "-P", "-m", "deltabus.cli", "worker", *options]
        environ = {"DELTABUS_REDIS_URL": self.redis_url, "DELTABUS_LOG_LEVEL": "error"}
        with contextlib.ExitStack() as stack:
            yield [stack.enter_context(started(command, environ, self.folder)) for _ in range(count)]

    @contextmanager
    def peer(self, environment: str, *words: str) -> Iterator[Process]:
        """A program of a peer's environment: `-m module …`, or a script of it."""
        with started(self._command(environment, words), self._environ(), self.folder) as process:
            yield process

    def ask_peer(self, environment: str, *words: str) -> str:
        """What such a program prints."""
        return answer_of(self._command(environment, words), self._environ(), self.folder, timeout=PATIENCE)

    def bus(self) -> Bus:
        return Bus(self.redis_url)

    def running(self) -> list[str]:
        """The ids of the tasks that run."""
        members: list[bytes] = list(self.client.zrange("rq:wip:bench", 0, -1))  # type: ignore[arg-type] # as asked
        return sorted({member.decode().partition(":")[0] for member in members})

    def follow(self, **order: Any) -> dict[str, Any]:
        """Follow tasks from a process of its own; see `sidebyside.follower`."""
        order = {"redis": self.redis_url, "buses": 1, "before": 1.0, "probes": 0, **order}
        command = [sys.executable, "-m", "sidebyside.follower", json.dumps(order)]
        environ = {"PYTHONPATH": str(Path(__file__).resolve().parents[1])}
        said = answer_of(command, environ, self.folder, timeout=PATIENCE)
        return dict(json.loads(said))

    def _command(self, environment: str, words: Sequence[str]) -> list[str]:
        python = environments.python(environment)
        program, *rest = words
        if program.endswith(".py"):
            return [str(python), str(environments.PEERS / program), *rest]
        return [str(python.with_name(program)), *rest]

    def _environ(self) -> Mapping[str, str]:
        return {"REDIS_URL": self.redis_url, "PYTHONPATH": str(environments.PEERS), "PYTHONDONTWRITEBYTECODE": "1"}


@contextmanager
def stage(folder: Path, *, quick: bool, alone: bool) -> Iterator[Stage]:
    """Set it up; all of it is gone in the end."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(EmbeddedRedis(args=ARGUMENTS))
        client = stack.enter_context(redis.Redis.from_url(server.url))
        provider = stack.enter_context(
            subprocess.Popen(  # our own program
                [sys.executable, "-m", "sidebyside.provider"],
                cwd=Path(__file__).resolve().parents[1],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
        )
        stack.callback(provider.kill)
        assert provider.stdout is not None
        port = int(provider.stdout.readline())
        yield Stage(server.url, client, port, folder, quick=quick, alone=alone)
