"""The spans of producers and workers: one trace a task, whatever becomes of it, and nothing in it that was said."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from deltabus.blocking import Bus
from deltabus.bus import AsyncBus
from deltabus.errors import TaskExists, TaskFailed
from deltabus.tracing import source

PROMPT = "the quick brown prompt jumps"
PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

Spans = Callable[[], Sequence[ReadableSpan]]


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Spans:
    """All spans so far, by their start."""
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(source, "_own", [provider])
    return lambda: sorted(exporter.get_finished_spans(), key=lambda span: span.start_time or 0)


@pytest.fixture
def bus(site) -> Bus:
    with Bus(site.url, settings=site.settings(traces="on")) as found:
        yield found


def chat(bus: Bus, script: dict[str, Any], **options: Any) -> str:
    return bus.chat(messages=PROMPT, model="m-1", echo=script, **options).id


def work(site, **settings: Any) -> None:
    site.work(settings=site.settings(traces="on", **{"retry_delay": 0.0, **settings}))


def outline(spans: Sequence[ReadableSpan]) -> list[tuple[str, str]]:
    """Each span's name, and its parent's."""
    names = {span.context.span_id: span.name for span in spans}
    return [(span.name, names.get(span.parent.span_id, "elsewhere") if span.parent else "") for span in spans]


def facts(span: ReadableSpan, *names: str) -> list[Any]:
    return [(span.attributes or {}).get(name) for name in names]


def test_a_task_is_one_trace_from_its_producer_to_the_provider(site, bus, spans):
    task = chat(bus, {"text": "one two three", "usage": {"prompt_tokens": 7}}, tenant="acme", temperature=0.5)
    work(site)
    found = spans()
    assert sorted(outline(found)) == [
        ("chat m-1", "process chat"),
        ("process chat", "send chat"),
        ("send chat", ""),
        ("wait chat", "send chat"),
    ]
    assert len({span.context.trace_id for span in found}) == 1
    by_name = {span.name: span for span in found}
    sent, attempt, call = (by_name[name] for name in ("send chat", "process chat", "chat m-1"))
    assert [span.kind.name for span in (sent, attempt, call)] == ["PRODUCER", "CONSUMER", "CLIENT"]
    assert facts(sent, "messaging.destination.name", "messaging.message.id") == ["chat", task]
    assert facts(attempt, "messaging.message.id", "deltabus.attempt", "deltabus.ending", "deltabus.tenant") == [
        *(task, 1, "completed", "acme")
    ]
    assert facts(call, "gen_ai.operation.name", "gen_ai.provider.name", "gen_ai.request.model") == [
        *("chat", "echo", "m-1")
    ]
    assert facts(call, "gen_ai.response.finish_reasons", "gen_ai.request.temperature") == [("stop",), 0.5]
    assert not any(span.status.status_code is StatusCode.ERROR for span in found)


def test_a_try_that_subscribers_hear_of_is_an_attempt_and_one_that_they_do_not_is_a_call(site, bus, spans):
    chat(bus, {"error": "rate_limited", "fail_after": 0, "retry_after": 0.001}, retry={"max": 1})
    chat(bus, {"error": "provider_timeout", "fail_after": 1, "fail_attempts": 1, "retry_after": 0.001})
    work(site, concurrency=1)
    attempts = [span for span in spans() if span.name == "process chat"]
    assert [facts(span, "deltabus.attempt", "deltabus.ending", "error.type") for span in attempts] == [
        [1, "failed", "rate_limited"],
        [1, "retrying", "provider_timeout"],
        [2, "completed", None],
    ]
    calls = [span for span in spans() if span.name == "chat m-1"]
    assert [facts(span, "error.type") for span in calls] == [
        *(["rate_limited"], ["rate_limited"], ["provider_timeout"], [None])
    ]
    owners = [attempts[0], attempts[0], attempts[1], attempts[2]]
    assert [call.parent.span_id for call in calls] == [owner.context.span_id for owner in owners]
    assert [span.context.trace_id for span in calls[2:]] == [attempts[1].context.trace_id] * 2


def test_a_failure_and_a_cancel_show_in_the_trace(site, bus, spans):
    chat(bus, {"error": "permission", "fail_after": 0})
    work(site)
    failed, call = (span for span in spans() if span.name in ("process chat", "chat m-1"))
    for span in (failed, call):
        assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "permission")
    cancelled = bus.task(chat(bus, {"words": 100_000, "interval": 0.05}))
    with site.worker(settings=site.settings(traces="on")):
        next(iter(cancelled.text()))
        cancelled.cancel("enough")
        for _ in cancelled.events():
            pass
    attempt, call = (span for span in spans()[-2:] if span.name in ("process chat", "chat m-1"))
    for span in (attempt, call):
        assert facts(span, "error.type") == [None]
        assert span.status.status_code is StatusCode.UNSET
    assert facts(attempt, "deltabus.ending") == ["cancelled"]


def test_a_task_that_never_begins_shows_why(site, bus, spans):
    task = bus.task(chat(bus, {}, deadline=1.0))
    work(site)
    with pytest.raises(TaskFailed):
        task.result(10)
    (span,) = (span for span in spans() if span.name == "process chat")
    assert facts(span, "deltabus.attempt", "deltabus.ending", "error.type") == [0, "failed", "deadline_exceeded"]


def test_nothing_that_was_said_is_in_any_span(site, bus, spans):
    chat(bus, {"text": "the-marker-of-an-answer"}, metadata={"a": "the-marker-of-a-note"})
    chat(bus, {"error": "invalid_request", "fail_after": 0})
    work(site)
    shown = "".join(span.to_json() for span in spans())
    assert json.loads(spans()[0].to_json())["name"] == "send chat"
    assert PROMPT not in shown
    assert "the-marker" not in shown


def test_a_context_of_the_producers_own_is_kept_and_linked(site, bus, spans):
    chat(bus, {}, trace=PARENT, tracestate="vendor=1")
    chat(bus, {}, trace="no traceparent")
    work(site)
    sent = [span for span in spans() if span.name == "send chat"]
    (link,) = sent[0].links
    assert f"{link.context.trace_id:032x}" == PARENT.split("-")[1]
    assert not sent[1].links
    attempts = [span for span in spans() if span.name == "process chat"]
    assert [span.parent and f"{span.parent.span_id:016x}" for span in attempts] == ["00f067aa0ba902b7", None]
    assert attempts[0].context.trace_state.get("vendor") == "1"


def test_many_tasks_share_the_span_that_sent_them_and_a_refusal_is_one(site, bus, spans):
    bus.chat_many([{"messages": "one", "model": "m-1"}, {"messages": [{"role": "user", "content": "two"}]}])
    bus.chat(messages="hi", task_id="taken")
    with pytest.raises(TaskExists):
        bus.chat(messages="hi", task_id="taken")
    first, _, refused = spans()
    assert facts(first, "messaging.batch.message_count", "messaging.message.id") == [2, None]
    assert facts(refused, "error.type") == ["TaskExists"]


def test_the_asyncio_bus_has_spans_too_and_those_of_the_caller_above_them(site, spans):
    tracer = source.tracer("test")

    async def main() -> None:
        async with AsyncBus(site.url, settings=site.settings(traces="on")) as bus:
            with tracer.start_as_current_span("request"):
                await bus.chat(messages="hi")

    asyncio.run(main())
    assert outline(spans()) == [("request", ""), ("send chat", "request")]


def test_stock_workers_have_the_same_spans(site, bus, spans, monkeypatch):
    monkeypatch.setenv("DELTABUS_TRACES", "on")
    chat(bus, {"text": "hello"})
    site.work_simply()
    assert [name for name, _ in outline(spans())] == ["send chat", "wait chat", "process chat", "chat m-1"]


def test_without_the_switch_no_envelope_has_a_context(site, spans):
    with Bus(site.url, settings=replace(site.settings(), traces="off")) as bus:
        bus.chat(messages="hi")
    site.work()
    assert not spans()
