"""An OpenAI-compatible server that fails as planned, and knows what it has sent to whom."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final, Self

from chaos.history import Call
from chaos.plan import LASTING_FAULTS, MODEL, Plan
from deltabus.testing import Action, Reply, Request, ScriptedServer, Signal
from deltabus.testing.server import Step

#: Seconds between two pieces of an answer. All streams share one clock.
TICK: Final = 0.05

#: Seconds for which a worker waits for the first byte and for the next one; what stalls is given up after them.
PATIENCE: Final = 2.0

_Chunk = dict[str, Any]


class Provider:
    """The server; a context manager.

    Args:
        plans: by task id; may grow while it runs.
    """

    def __init__(self, seed: int, plans: Mapping[str, Plan]) -> None:
        self._seed = seed
        self._plans = plans
        self._clock = _Clock()
        self._server = ScriptedServer(default=self._answer)
        self._numbers: dict[str, int] = {}
        self._silent: list[tuple[Call, Request]] = []
        #: What was asked, in order.
        self.calls: list[Call] = []

    def __enter__(self) -> Self:
        self._clock.start()
        self._server.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.__exit__(kind, error, traceback)
        self._clock.stop()

    @property
    def tables(self) -> str:
        """What `deltabus.toml` says of the providers: this one, and the one that answers by itself."""
        return (
            f'[providers.echo]\nmodels = ["echo"]\n\n[providers.scripted]\nmodels = ["{MODEL}"]\n'
            f'plugin = "openai"\nbase_url = "{self._server.url}/v1"\napi_key = "none-of-it-is-secret"\n'
            f"timeouts = {{ connect = {PATIENCE}, first_byte = {PATIENCE}, between_bytes = {PATIENCE} }}\n"
        )

    def close_the_books(self) -> None:
        """Note which of the calls that are never answered to the end are still open."""
        for call, request in self._silent:
            call.left_open = not request.closed.is_set

    def _answer(self, request: Request) -> Reply:
        """The reply to a call; called on the server's thread."""
        task = request.headers.get("x-task", "")
        plan = self._plans.get(task)
        if plan is None:
            return _refusal(404, f"no task `{task}` is planned", "not_found_error")
        number = self._numbers[task] = self._numbers.get(task, 0) + 1
        fault = plan.faults[number - 1] if number <= len(plan.faults) else ""
        if plan.faults and (plan.faults[-1] in LASTING_FAULTS or plan.faults[-1] == "silence"):
            fault = plan.faults[-1]
        dice = random.Random(f"{self._seed} {task} {number}")  # noqa: S311 # it hides nothing
        # Every word says which call it is of, so that no two answers can be taken for one.
        words = [f"{task} call {number}:", *(f"{number}.{place}" for place in range(dice.randint(4, 30)))]
        call = Call(task=task, number=number, at=time.time(), text=" ".join(words), fault=fault)
        self.calls.append(call)
        reply = self._reply(call, words, stream=bool(request.json().get("stream")))
        if Action.HANG in reply.body:
            self._silent.append((call, request))
        return reply

    def _reply(self, call: Call, words: list[str], *, stream: bool) -> Reply:
        match call.fault:
            case "429 with Retry-After":
                return _refusal(429, "slow down", "rate_limit_exceeded", {"Retry-After": "1"})
            case "429 with retry-after-ms":
                return _refusal(429, "slow down", "rate_limit_exceeded", {"retry-after-ms": "300"})
            case "429":
                return _refusal(429, "slow down", "rate_limit_exceeded")
            case "429 insufficient_quota":
                return _refusal(429, "no credit is left", "insufficient_quota")
            case "500" | "400" | "401":
                return _refusal(int(call.fault), "as planned", "planned")
            case "503 as HTML":
                html = {"Content-Type": "text/html"}
                return Reply(status=503, headers=html, body=[b"<html><h1>503</h1></html>"], framing="length")
            case "garbage":
                return Reply.sse(b"data: {this is not JSON\n\n")
            case "stall before the first byte":
                return Reply.sse(Action.HANG)
        if not stream:
            return Reply.json(_completion(call, " ".join(words)))
        steps = self._stream(call, words)
        half = len(steps) // 2
        match call.fault:
            case "":
                return Reply.sse(*steps)
            case "silence" | "stall mid-stream":
                return Reply.sse(*steps[:half], Action.HANG)
            case "reset mid-stream":
                return Reply.sse(*steps[:half], Action.ABORT)
            case "closed mid-stream":
                return Reply.sse(*steps[:half], Action.CLOSE)
            case "half an event":
                return Reply.sse(*steps[:half], b'data: {"id": "x", "choices": [{"index": 0, "del', done=False)
            case "error mid-stream":
                error: _Chunk = {"error": {"message": "overloaded, as planned", "type": "server_error", "code": 503}}
                return Reply.sse(*steps[:half], error)
            case _:
                raise ValueError(f"no reply is known for the fault `{call.fault}`")

    def _stream(self, call: Call, words: list[str]) -> list[_Chunk | Step]:
        """The chunks, each followed by a wait for the clock."""
        steps: list[_Chunk | Step] = [_chunk(call, {"role": "assistant", "content": ""})]
        for place, word in enumerate(words):
            steps += [self._clock.tick(place), _chunk(call, {"content": f" {word}" if place else word})]
        steps.append(_chunk(call, {}, "stop"))
        return steps


class _Clock:
    """Signals that are set one after the other, whoever waits for them."""

    def __init__(self) -> None:
        self._ticks: list[Signal] = []
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="chaos-clock", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()

    def tick(self, place: int) -> Signal:
        """The signal that is set in so many ticks."""
        with self._lock:
            while len(self._ticks) <= place:
                self._ticks.append(Signal())
            return self._ticks[place]

    def _run(self) -> None:
        while not self._over.wait(TICK):
            with self._lock:
                now = self._ticks.pop(0) if self._ticks else None
            if now is not None:
                now.set()


def _refusal(status: int, message: str, code: str, headers: Mapping[str, str] | None = None) -> Reply:
    return Reply.json({"error": {"message": message, "type": code, "code": code}}, status, headers)


def _chunk(call: Call, delta: dict[str, Any], finish_reason: str | None = None) -> _Chunk:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    name = f"chatcmpl-{call.task}-{call.number}"
    return {"id": name, "object": "chat.completion.chunk", "created": int(call.at), "model": "m", "choices": [choice]}


def _completion(call: Call, text: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": text, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    name = f"chatcmpl-{call.task}-{call.number}"
    return {"id": name, "object": "chat.completion", "created": int(call.at), "model": "m", "choices": [choice]}
