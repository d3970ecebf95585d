"""The death of a worker in memory, as a SIGKILL would have it: at once, behind a certain event, without a last word.

Whatever runs on the worker's loop stops where it is, for ever: nothing is cancelled, no `finally` runs, no command
reaches Redis any more. Its sockets are closed, as the kernel would do it. What only a process' end would stop goes on:
threads that the task functions have started.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterable
from contextvars import Context
from typing import Any, Final, NoReturn

import redis
from redis.client import PubSub

from deltabus import events, keys
from deltabus.events import Terminal

#: What redis-py's connections take to send.
Command = bytes | str | Iterable[bytes]


class Crash:
    """When the worker dies, and whether it has.

    Args:
        after: number of the event, of any task, behind which it does; 0 is `started`.
        redis: a client of its own.
    """

    def __init__(self, after: int, redis: redis.Redis) -> None:
        self._after: Final = after
        self._redis = redis
        self._tap: PubSub = redis.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
        self._tap.psubscribe(keys.events("*"))
        #: Number of the newest event of each task.
        self._reached: dict[str, int] = {}
        self._lock = threading.Lock()
        self._called_off = False
        #: The worker is dead.
        self.happened = False

    def call_off(self) -> bool:
        """From now on the worker lives; whether it still does."""
        with self._lock:
            self._called_off = True
            return not self.happened

    def explain(self) -> str:
        """Why the worker has not died."""
        if not self._reached:
            return f"crash_after={self._after}: the worker did not die, as no task began within the `with` block"
        last = max(self._reached.values())
        return (
            f"crash_after={self._after}: the worker did not die, as no task came so far within the `with` block: the "
            f"longest had {last + 1} events, numbered from 0 to {last}"
        )

    def live(self, work: Coroutine[Any, Any, int], on_death: Callable[[], None]) -> int:
        """Run the worker's shift on a loop of its own. If the worker dies, this does not return.

        Args:
            on_death: called then, when its sockets are closed.
        """
        loop = _Loop()
        runner = asyncio.Runner(loop_factory=lambda: loop)
        try:
            taken = runner.run(work)
        except _Death:
            remains = asyncio.all_tasks(loop)
            loop.cut()
            on_death()
            _rest(runner, remains)
        except BaseException:
            runner.close()
            raise
        runner.close()
        return taken

    def close(self) -> None:
        """Close the connections."""
        self._tap.close()
        self._redis.close()

    def befall(self, client: redis.Redis | redis.asyncio.Redis) -> None:
        """Let the client share the worker's fate."""
        pool = client.connection_pool
        pool.connection_class = (self._blocking if isinstance(client, redis.Redis) else self._asynchronous)(
            pool.connection_class
        )

    def _blocking(self, kind: Any) -> Any:
        crash = self

        class Mortal(kind):  # type: ignore[misc] # a connection's class
            def send_packed_command(self, command: Command, check_health: bool = True) -> None:
                crash._refuse_the_dead()
                super().send_packed_command(command, check_health)

        return Mortal

    def _asynchronous(self, kind: Any) -> Any:
        crash = self

        class Mortal(kind):  # type: ignore[misc] # a connection's class
            async def send_packed_command(self, command: Command, check_health: bool = True) -> None:
                # `GroupCommit` gives its commands one by one: what comes behind the last one is not sent.
                for words in [command] if isinstance(command, bytes | str) else command:
                    crash._refuse_the_dead()
                    await super().send_packed_command(words, check_health)
                    crash._look()

        return Mortal

    def _refuse_the_dead(self) -> None:
        if self.happened:
            raise redis.ConnectionError("the worker is dead")

    def _look(self) -> None:
        """See what has been published, and die if it is time.

        A fake server publishes while it runs the command, so nothing is between the event and the death.
        """
        while (message := self._tap.get_message(timeout=0)) is not None:
            event = events.decode(message["data"])
            last = self._reached.get(event.task, -1)
            number = last + 1 if isinstance(event, Terminal) else int(event.id.partition("-")[2])
            self._reached[event.task] = max(last, number)
            if number == self._after:
                with self._lock:
                    if self._called_off:
                        return
                    self.happened = True
                raise _Death


class _Death(SystemExit):
    """Ends the loop in the midst of it, as asyncio lets nothing else do. It never gets out of the worker's thread."""


def _rest(*_: object) -> NoReturn:
    """Hold what was running, for ever: once nobody holds a coroutine, Python ends it and runs every `finally` in it."""
    while True:
        threading.Event().wait()


class _Loop(asyncio.SelectorEventLoop):
    """A loop that may stop for ever in the midst of it. uvloop waits, in `close`, for what is under way there."""

    def cut(self) -> None:
        """Close it with all its sockets."""
        for transport in list(self._transports.values()):  # type: ignore[attr-defined] # asyncio has no public list
            transport._sock.close()  # noqa: SLF001 # `transport.close` leaves that to the loop
        self.close()

    def call_soon_threadsafe(  # type: ignore[override] # of the same arguments, without their types
        self, callback: Any, *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        """Others may call it all the same, as the fake server does when a key changes that was waited for."""
        try:
            return super().call_soon_threadsafe(callback, *args, context=context)
        except RuntimeError:
            if not self.is_closed():
                raise
            return asyncio.Handle(callback, args, self, context)
