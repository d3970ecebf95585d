"""`deltabus demo`: the whole path of a task, for real, with nothing else running."""

from __future__ import annotations

import asyncio
import subprocess
import tempfile
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import click

from deltabus.cli import complete, exits
from deltabus.cli.following import follow, run
from deltabus.cli.options import Command, Session, pass_session
from deltabus.cli.screens import Screen
from deltabus.cli.transcript import Transcript
from deltabus.cli.worker import command
from deltabus.errors import DeltabusError
from deltabus.settings import Settings

#: What the demo asks for where nobody says otherwise; the echo provider says it at this pace.
SCRIPT: Final[dict[str, Any]] = {
    "text": "Every word here went through Redis: a producer put a task on a queue, a worker in a process of its own "
    "took it and streamed the answer back, word by word. Each word is in the task's log as well, so whoever comes "
    "late, or loses the connection, still gets all of them, once and in order.",
    "interval": 0.02,
}

#: Seconds that the worker may take to stop.
STOP_TIMEOUT: Final = 5.0

HELP = """See a task go the whole way, with nothing else running.

Starts a private Redis and a worker process, enqueues a chat task, streams the answer to this terminal,
shows the final result, and cleans up. Offline, with the built-in echo provider; --provider takes one of
your configuration instead.

\b
Examples:
  deltabus demo
  deltabus demo "hello bus"
  deltabus demo --json
  deltabus demo --provider openai "What is a Redis stream?"
"""


class WorkerEnded(DeltabusError):
    """The demo's worker process ended before the task did; the message has its last words."""


@click.command("demo", cls=Command, help=HELP)
@click.argument("prompt", required=False)
@click.option(
    "-p",
    "--provider",
    shell_complete=complete.providers,
    help="Provider of your configuration to ask. Default: echo, which needs no network.",
)
@click.option("-m", "--model", help="Model to ask for.")
@click.option("--json", "as_json", is_flag=True, help="Print the task's events, one JSON a line.")
@pass_session
def demo(session: Session, *, prompt: str | None, provider: str | None, model: str | None, as_json: bool) -> int:
    if session.redis is not None:
        raise click.UsageError("demo has a Redis of its own; on yours, use `deltabus worker` and `deltabus chat`")
    from deltabus.embedded import EmbeddedRedis

    screen = Screen()
    request: dict[str, Any] = {"messages": [{"role": "user", "content": prompt or "How does an answer get here?"}]}
    if model is not None:
        request["model"] = model
    with tempfile.TemporaryDirectory(prefix="deltabus-demo-") as folder:
        if provider is None:
            # Whatever is configured here, the demo does the same everywhere.
            session.config = Path(folder, "deltabus.toml")
            session.config.write_text('[providers.echo]\nplugin = "echo"\n')
            request |= {"echo": SCRIPT} if prompt is None else {}
        screen.wait("starting a private Redis and a worker")
        with EmbeddedRedis() as server:
            session.redis = server.url
            settings = replace(session.settings, queues=("chat",))
            # The port of metrics, where one is configured, may be a real worker's.
            worker = command(session, settings, "--metrics-port", "0")
            journey = _Journey(screen, worker, Path(folder, "worker.log"))
            return run(session, screen, {}, partial(journey.make, settings, request, provider, as_json=as_json))


class _Journey:
    """One task, from producer to subscriber, with a worker process in between."""

    def __init__(self, screen: Screen, worker: tuple[list[str], Mapping[str, str]], log: Path) -> None:
        self._screen = screen
        self._words, self._environ = worker
        self._log = log

    async def make(self, settings: Settings, request: dict[str, Any], provider: str | None, *, as_json: bool) -> int:
        from deltabus.bus import AsyncBus

        screen = self._screen
        async with self._worker() as process, AsyncBus(settings=settings) as bus:
            if not as_json:
                screen.note(f"Redis    {settings.redis_address}")
                screen.note(
                    f"Worker   process {process.pid}, queue {settings.queues[0]}, provider {provider or 'echo'}"
                )
            task = await bus.chat(request, provider=provider)
            if not as_json:
                screen.note(f"Task     {task.id}: {request['messages'][0]['content']}")
            screen.wait("waiting for the worker")
            await self._unless_it_ends(process, follow(task, screen, Transcript(), json=as_json))
            if not as_json:
                screen.end()
                screen.note("the final result, as the provider returned it:")
                screen.pretty(await task.result())
        return exits.DONE

    @asynccontextmanager
    async def _worker(self) -> AsyncIterator[Process]:
        with self._log.open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *self._words, env=self._environ, stdin=subprocess.PIPE, stdout=log, stderr=log, process_group=0
            )
        try:
            yield process
        finally:
            await self._stop(process)

    async def _stop(self, process: Process) -> None:
        with suppress(ProcessLookupError):
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), STOP_TIMEOUT)
            except TimeoutError:
                process.kill()
                await process.wait()

    async def _unless_it_ends(self, process: Process, following: Coroutine[Any, Any, None]) -> None:
        follower = asyncio.create_task(following)
        ended = asyncio.create_task(process.wait())
        try:
            await asyncio.wait({follower, ended}, return_when=asyncio.FIRST_COMPLETED)
            if not follower.done():
                words = self._log.read_text(errors="replace").strip().splitlines() or ["nothing"]
                raise WorkerEnded(f"the worker ended with exit code {ended.result()}; its last words: {words[-1]}")
            await follower
        finally:
            for task in (follower, ended):
                task.cancel()
            await asyncio.gather(follower, ended, return_exceptions=True)
