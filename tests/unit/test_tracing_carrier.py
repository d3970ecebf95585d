"""Whatever producers put where a trace context should be: refused as the worker would, or ignored; never a crash."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import example as example_of
from hypothesis import settings as examples
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from deltabus import envelope
from deltabus.enqueue import Order
from deltabus.errors import InvalidRequest
from deltabus.settings import Settings
from deltabus.tracing import carrier, source
from deltabus.tracing.sending import sending

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

TEXTS = st.text(st.characters(codec=None)) | st.from_regex(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")


def example(given_: object, tracestate: object) -> Any:
    return example_of(given_=given_, tracestate=tracestate)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
)


@pytest.fixture(autouse=True)
def _own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "_own", [TracerProvider(shutdown_on_exit=False)])


def ordered(contents: list[dict[str, Any]]) -> str:
    """What is wrong with them, as the producer says; empty: nothing."""
    try:
        Order("deltabus.tasks.chat", contents, queue="chat", task=None, settings=Settings())
    except InvalidRequest as exc:
        return f"{exc.param}: {exc.message}"
    return ""


@examples(max_examples=200, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(given_=JSON, tracestate=JSON)
@example(PARENT, "a=1,b=2, c@d=3 ,,a=4")
@example(PARENT, ",".join(f"a{number}=1" for number in range(40)))
@example("0" * 600, "")
@example(PARENT, "a=a prompt, 5")
@example(5, None)
@example([PARENT], "a=1")
@example({}, [])
@example(0, "a=1")
@example(False, None)
@example("", {})
@example(PARENT, "a" * 5000)
@example(PARENT, "\ud800=1,=,==")
@example("\ud800", "a=1")
def test_with_traces_a_producer_refuses_what_it_refuses_without_and_a_worker_reads_the_rest(caplog, given_, tracestate):
    content = {"request": {"messages": "hi"}, "trace": given_, "tracestate": tracestate}
    for contents in ([content], [content, {"request": {}}, content]):
        with sending("chat", contents) as traced:
            assert ordered(list(traced.contents)) == ordered(contents)
    try:
        found = envelope.parse(content)
    except InvalidRequest:
        return
    parent = carrier.parent(found.trace, found.tracestate)
    assert parent is None or found.trace is not None
    # It is nobody's business what it was.
    assert not caplog.records


@pytest.mark.parametrize("nothing", [{}, {"trace": None}, {"trace": ""}, {"tracestate": "a=1"}])
def test_an_envelope_without_a_context_gets_the_producers_alone(nothing):
    with sending("chat", [{"request": {}, **nothing}]) as traced:
        (content,) = traced.contents
    assert carrier.parent(content["trace"], None) is not None
    # Somebody else's state says nothing of this context.
    assert content.get("tracestate") is None


def test_an_envelope_with_a_context_keeps_it():
    content = {"request": {}, "trace": PARENT, "tracestate": "a=1"}
    with sending("chat", [content]) as traced:
        assert traced.contents == [content]
    parent = carrier.parent(PARENT, "a=1 ,\tb=2 3,,t61rcwkgmze@rojo=x")
    assert trace.get_current_span(parent).get_span_context().trace_state == {
        "a": "1",
        "b": "2 3",
        "t61rcwkgmze@rojo": "x",
    }
