"""The provider: says an answer at the pace, and with the faults, that the script asks for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final, NoReturn

from deltabus.provider import ChatRequest, Chunk, Completion, Health, Provider, StreamTruncated
from deltabus_echo import script as scripts
from deltabus_echo.answer import Answer
from deltabus_echo.pace import Pace
from deltabus_echo.script import Script

#: Steps between two turns of the loop where the script has no interval, so that one long answer
#: does not keep a process' other streams waiting.
STEPS_A_TURN: Final = 16

#: HTTP statuses of the errors, where a server's answer would have one.
STATUS: Final[Mapping[str, int]] = {
    "authentication": 401,
    "invalid_request": 400,
    "not_found": 404,
    "payload_too_large": 413,
    "permission": 403,
    "provider_unavailable": 503,
    "quota_exhausted": 429,
    "rate_limited": 429,
}


class EchoProvider(Provider):
    """Answers by itself. The table `[providers.<name>]` may hold what a script may: the defaults."""

    def __init__(self, name: str, settings: Mapping[str, Any]) -> None:
        self.name = name
        self._defaults = scripts.of_settings(settings)
        self._pace: Pace | None = None

    async def chat(self, request: ChatRequest) -> AsyncIterator[Chunk | Completion]:
        """Say the answer; see `Provider.chat` and `deltabus_echo.script.Script`."""
        script = scripts.of_request(request.body, self._defaults)
        answer = Answer(request, script)
        fault, after = _fault(script, request.attempt)
        pace = self._pace_of(asyncio.get_running_loop())
        due = pace.loop.time()
        said = 0
        steps = answer.steps() if request.stream else answer.silent_steps()
        for step, (words, chunks) in enumerate(steps):
            # Before the role chunk, a script's fault is one before the first byte.
            if said >= after:
                await self._strike(fault, script)
            if step and script.interval:
                due += script.interval
                await pace.until(due)
            elif step % STEPS_A_TURN == 0:
                await asyncio.sleep(0)
            for chunk in chunks:
                yield chunk
            said += words
        if not request.stream:
            yield Completion(answer.completion())

    async def check(self) -> Health:
        """There is nothing to reach."""
        return Health(ok=True, detail="answers by itself: no server, no key", models=("echo",))

    def _pace_of(self, loop: asyncio.AbstractEventLoop) -> Pace:
        # Where each task gets a loop of its own, a former loop's timers will not wake anybody.
        if self._pace is None or self._pace.loop is not loop:
            self._pace = Pace(loop)
        return self._pace

    async def _strike(self, fault: str, script: Script) -> NoReturn:
        if fault == "stall":
            await asyncio.get_running_loop().create_future()
        if fault == "truncate":
            raise StreamTruncated("ended without saying that it was complete, as the script asks", provider=self.name)
        if fault == scripts.CRASH:
            raise RuntimeError("a bug, as the script asks")
        raise scripts.ERRORS[fault](
            "failed, as the script asks",
            status=STATUS.get(fault),
            provider=self.name,
            retry_after=script.retry_after,
        )


def _fault(script: Script, attempt: int) -> tuple[str, float]:
    """What will go wrong with this attempt, and after how many words: after infinitely many, nothing will."""
    faults: list[tuple[float, str]] = []
    if script.fail_attempts is None or attempt <= script.fail_attempts:
        if script.stall_after is not None:
            faults.append((script.stall_after, "stall"))
        if script.truncate_after is not None:
            faults.append((script.truncate_after, "truncate"))
        if script.fail_after is not None or script.error is not None:
            faults.append((script.fail_after or 0, script.error or "provider_unavailable"))
    after, fault = min(faults, default=(float("inf"), ""))
    return fault, after
