"""Envelopes, and what is read back from Redis, against the functions that read them."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from deltabus import calls, envelope, events, failure, files
from deltabus.chat import request as chat
from deltabus.chat.accumulator import Accumulator
from deltabus.enqueue import Order
from deltabus.errors import DeltabusError
from deltabus.http import body
from deltabus.provider import Capabilities
from deltabus.records import Record, explain
from deltabus.settings import Settings
from deltabus.telling import Telling
from deltabus.testing.grammar import violations
from deltabus_anthropic import wire as anthropic
from deltabus_gemini import wire as gemini
from fuzz import corpus
from fuzz.mutation import Mutator
from fuzz.subject import Parser, refusal

#: What checks the request of each function.
_RULES: Final[Mapping[str, Callable[[Mapping[str, Any], Capabilities], Any]]] = {
    "deltabus.tasks.chat": chat.prepare,
    "deltabus.tasks.file": files.prepare,
    "deltabus.tasks.embeddings": calls.embeddings,
    "deltabus.tasks.images": calls.images,
    "deltabus.tasks.models": calls.models,
    "deltabus.tasks.speech": calls.speech,
    "deltabus.tasks.transcription": calls.transcription,
}

_SETTINGS: Final = Settings()

#: What the plugins translate a chat's request with.
_TRANSLATIONS: Final = (anthropic.request, gemini.request)

_CAPABILITIES: Final = (
    Capabilities(files=True, image_ids=True),
    Capabilities(files=True, strict_ranges=False, tool_call_id_pattern="[A-Za-z0-9]{9}"),
    Capabilities(tools=False, logprobs=False, max_n=1, message_names=False, file_ids=False, file_parts=False),
)


def worse_envelope(mutator: Mutator) -> tuple[str, Any]:
    """A function, and an envelope for it that may break a rule."""
    function, request = mutator.random.choice(corpus.CALLS)
    options = mutator.random.choice(corpus.OPTIONS)
    good = {"request": request, **options}
    if mutator.random.random() < 0.4:
        return function, {**good, "request": mutator.document(request)}
    return function, mutator.document(good)


class Envelopes(Parser):
    """The argument of a job: decoded, checked, its request checked by the rules of its function, and translated."""

    kind = "envelopes"
    share = 17

    def make(self, index: int) -> tuple[str, Any]:
        mutator = self.mutator(index)
        chance = mutator.random.random()
        if chance < 0.1:
            return "deltabus.tasks.chat", mutator.noise()
        function, made = worse_envelope(mutator)
        if chance < 0.2:
            return function, made  # as a producer in Python passes it, never written as JSON
        encoded = mutator.encode(made)
        return function, mutator.data(encoded) if chance < 0.3 else encoded

    def attempt(self, given: tuple[str, Any]) -> str:
        function, content = given
        if not isinstance(content, bytes):
            return self._produced(function, content)
        try:
            value = msgspec.json.decode(content)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return "not JSON"
        parsed = envelope.parse(value)
        told = set()
        for capabilities in _CAPABILITIES:
            try:
                prepared = _RULES[function](parsed.request, capabilities)
            except DeltabusError as exc:
                told.add(refusal(exc))
                continue
            told.add("ok")
            if function == "deltabus.tasks.chat":
                for translate in _TRANSLATIONS:
                    try:
                        msgspec.json.encode(translate(body.merge(prepared, model="m")))
                    except DeltabusError as exc:
                        refusal(exc)
        return "ok" if "ok" in told else min(told)

    def _produced(self, function: str, content: Any) -> str:
        if not isinstance(content, dict):
            return "not a mapping"
        Order(function, [content], queue="chat", task=None, settings=_SETTINGS)
        return "ok"


class Remembered(Parser):
    """What Redis holds of a task, in its log and RQ's records, as subscribers and dead letters read it."""

    kind = "records"
    share = 9

    def make(self, index: int) -> tuple[str, Any]:
        mutator = self.mutator(index)
        match mutator.random.randrange(6):
            case 0:
                return "event", self._event(mutator)
            case 1:
                return "events", [self._event(mutator) for _ in range(4)]
            case 2:
                return "payload", self._payload(mutator)
            case 3:
                note = mutator.encode(mutator.document(json.loads(corpus.HASH_OPTIONS["deltabus_failure"])))
                return "note", mutator.data(note) if mutator.random.random() < 0.3 else note
            case 4:
                return "reason", mutator.random.choice((mutator.noise(), mutator.packed(mutator.noise())))
        return "result", mutator.random.choice(
            (mutator.noise(), mutator.encode(mutator.document({"choices": [{"message": {"content": "x"}}]})))
        )

    def attempt(self, given: tuple[str, Any]) -> str:
        what, content = given
        return f"{what}: {getattr(self, f'_read_{what}')(content)}"

    def _event(self, mutator: Mutator) -> bytes:
        if mutator.random.random() < 0.1:
            return mutator.noise()
        encoded = mutator.encode(mutator.document(mutator.random.choice(corpus.events())))
        return mutator.data(encoded) if mutator.random.random() < 0.2 else encoded

    def _payload(self, mutator: Mutator) -> bytes:
        function, made = worse_envelope(mutator)
        call: Any = [function, None, [made], {}]
        encoded = mutator.encode(mutator.document(call) if mutator.random.random() < 0.3 else call)
        return mutator.packed(encoded) if mutator.random.random() < 0.5 else mutator.data(encoded)

    def _read_event(self, content: bytes) -> str:
        try:
            event = events.decode(content)
        except (msgspec.DecodeError, msgspec.ValidationError):
            return "no event"
        violations([event])
        Telling("t").feed(event)
        events.decode(events.encode(event))
        return type(event).__name__.lower()

    def _read_events(self, contents: list[bytes]) -> str:
        found = []
        for content in contents:
            try:
                found.append(events.decode(content))
            except (msgspec.DecodeError, msgspec.ValidationError):
                continue
        violations(found)
        telling, answer = Telling("t"), Accumulator()
        for event in found:
            telling.feed(event)
            for chunk in getattr(event, "chunks", ()):
                answer.add(chunk)
        msgspec.json.encode(answer.completion())
        return f"{len(found)} of {len(contents)}"

    def _read_payload(self, content: bytes) -> str:
        record = _record(data=content)
        return f"{'a' if record.function else 'no'} function, {'a' if record.reply_to else 'no'} channel"

    def _read_note(self, content: bytes) -> str:
        ending = _record(state="failed", result={b"execution_id": b"e"}, note=content).ending()
        events.decode(events.encode(ending))
        return "known" if failure.decode(content, b"e") else "none"

    def _read_reason(self, content: bytes) -> str:
        code, message = explain(content)
        message.encode(errors="surrogatepass")
        return code or "unknown"

    def _read_result(self, content: bytes) -> str:
        encoded = base64.b64encode(content)
        events.encode(_record(state="completed", result={b"type": b"1", b"return_value": encoded}).ending())
        return "ok"


def _record(**fields: Any) -> Record:
    given = {
        "task": "t",
        "state": "queued",
        "queue": "chat",
        "data": b"",
        "result_ttl": None,
        "result": None,
        "result_at": 0.0,
    }
    return Record(**{**given, **fields})
