"""Where traces go, who may have the context, and what a call says of itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import TracerProvider

from deltabus.cli import main
from deltabus.errors import ConfigError
from deltabus.http.client import Client
from deltabus.http.config import Config
from deltabus.provider import Request
from deltabus.settings import Settings, load
from deltabus.telemetry import Watch, attend, leave
from deltabus.testing.server import Reply, ScriptedServer
from deltabus.tracing import carrier, genai, observers, source

FIELDS = [
    *("model", "seed", "n", "max_tokens", "temperature", "top_p", "stream", "id", "choices", "finish_reason", "usage"),
    *("prompt_tokens", "completion_tokens", "prompt_tokens_details", "cached_tokens"),
]

CONTEXT = {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "tracestate": "vendor=1"}


@pytest.fixture(autouse=True)
def nothing_made(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    made: list[Any] = []
    monkeypatch.setattr(source, "_own", made)
    monkeypatch.setattr(source.atexit, "register", lambda *_: None)
    yield
    for provider in made:
        provider.shutdown()  # its thread would go on in other tests


def test_without_the_extra_the_switch_is_one_clear_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(ConfigError) as caught:
        source.tracer("s")
    assert str(caught.value) == "`traces` needs OpenTelemetry: pip install 'deltabus[otel]'"


def test_without_the_switch_nothing_of_it_is_loaded():
    # Where it is installed, redis-py loads a part of OpenTelemetry for metrics of its own.
    code = "import sys, deltabus.worker, deltabus.cli, deltabus; deltabus.Bus(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not [module for module in loaded if module.startswith(("deltabus.tracing.", "opentelemetry.exporter"))]
    assert observers(Settings(), lambda _: "") == ()


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (
            {"OTEL_TRACES_EXPORTER": "zipkin"},
            "OTEL_TRACES_EXPORTER: there is no exporter 'zipkin'; there are none, otlp, console, otlp_proto_http",
        ),
        (
            {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            (
                "traces over OTLP as grpc need opentelemetry-exporter-otlp-proto-grpc: "
                "pip install opentelemetry-exporter-otlp-proto-grpc"
            ),
        ),
        (
            {"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "udp"},
            "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL must be one of http/protobuf, grpc, not 'udp'",
        ),
    ],
)
def test_variables_that_cannot_work_are_one_clear_error(monkeypatch, variables, message):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as caught:
        source.tracer("s")
    assert str(caught.value) == message


@pytest.mark.parametrize(("variable", "name"), [(None, "deltabus-worker"), ("shop", "shop")])
def test_a_service_is_called_as_the_variable_says_or_as_what_it_is(monkeypatch, variable, name):
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    if variable:
        monkeypatch.setenv("OTEL_SERVICE_NAME", variable)
    span = source.tracer("deltabus-worker").start_span("s")
    assert span.resource.attributes["service.name"] == name


@pytest.mark.parametrize(
    ("otel", "state"),
    [
        ({"OTEL_TRACES_EXPORTER": "none"}, "ok"),
        ({"OTEL_TRACES_EXPORTER": "console", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}, "ok"),
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "error"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "garbage"}, "error"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}, "warning"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "HTTP_PROXY": "http://proxy:1"}, "ok"),
    ],
)
def test_check_says_whether_traces_can_be_made(monkeypatch, tmp_path, otel, state):
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    variables = {"DELTABUS_TRACES": "on", "DELTABUS_REDIS_URL": "redis://127.0.0.1:1", **otel}
    shown = json.loads(CliRunner(env=variables).invoke(main, ["check", "--json"]).stdout)
    (finding,) = (finding for finding in shown["findings"] if finding["subject"] == "traces")
    assert finding["state"] == state


def test_the_switch_is_on_or_off():
    assert load(environ={"DELTABUS_TRACES": "ON"}).traces == "on"
    with pytest.raises(ConfigError, match=r"DELTABUS_TRACES must be one of off, on, not 'yes'"):
        load(environ={"DELTABUS_TRACES": "yes"})


@pytest.mark.parametrize("on", [True, False])
def test_a_provider_gets_the_context_where_its_settings_say_so(run, on):
    async def ask(url: str) -> None:
        client = Client("main", Config.read({"base_url": url, "propagate_trace": on}, base_url=url))
        watch = Watch("t", "chat", 1, "w")
        watch.trace_headers = CONTEXT
        token = attend(watch)
        try:
            await client.json("GET", client._config.endpoint.url("models"), Request(headers={"Traceparent": "mine"}))
        finally:
            leave(token)
            await client.aclose()
        assert watch.server == ("127.0.0.1", server.port)

    with ScriptedServer(Reply.json({})) as server:
        run(ask(server.url))
        headers = server.requests[0].headers
    assert headers["traceparent"] == (CONTEXT["traceparent"] if on else "mine")
    assert headers.get("tracestate") == ("vendor=1" if on else None)


@pytest.mark.parametrize(
    ("function", "request_", "name", "attributes"),
    [
        ("embeddings", {"model": "e", "input": "x"}, "embeddings e", {"gen_ai.operation.name": "embeddings"}),
        ("images", {"model": "i"}, "generate_content i", {"gen_ai.output.type": "image"}),
        ("chat", {"model": "m", "seed": 3, "n": True, "temperature": "hot"}, "chat m", {"gen_ai.request.seed": 3}),
        ("chat", {"model": 5}, "chat", {"gen_ai.request.model": None}),
        ("file", {"operation": "list", "model": "m"}, "file", {"gen_ai.operation.name": None}),
    ],
)
def test_a_call_is_named_as_the_conventions_have_it(function, request_: dict[str, Any], name, attributes):
    model = request_.get("model")
    assert genai.name(function, model if isinstance(model, str) else "") == name
    asked = dict(genai.asked(function, request_))
    assert {key: asked.get(key) for key in attributes} == attributes
    assert not {"gen_ai.request.choice.count", "gen_ai.request.temperature"} & asked.keys()


def test_an_answer_tells_its_model_its_reasons_and_its_tokens_whatever_else_it_is():
    answer = {
        "id": "chatcmpl-1",
        "model": "m-1-2026",
        "choices": [{"finish_reason": "stop", "message": {"content": "secret"}}, {"finish_reason": None}],
        "usage": {
            "prompt_tokens": 3,
            "completion_tokens": 0,
            "prompt_tokens_details": {"cached_tokens": 2},
            "completion_tokens_details": None,
        },
    }
    assert dict(genai.answered(answer)) == {
        "gen_ai.response.id": "chatcmpl-1",
        "gen_ai.response.model": "m-1-2026",
        "gen_ai.response.finish_reasons": ["stop", ""],
        "gen_ai.usage.input_tokens": 3,
        "gen_ai.usage.output_tokens": 0,
        "gen_ai.usage.cache_read.input_tokens": 2,
    }
    for odd in (None, [], {"choices": 5, "usage": "x"}, {"choices": [5], "usage": {"prompt_tokens": True}}):
        assert not dict(genai.answered(odd))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(FIELDS) | st.text(), inner, max_size=6),
)


@settings(max_examples=100)
@given(st.dictionaries(st.sampled_from(FIELDS), JSON), JSON | st.dictionaries(st.sampled_from(FIELDS), JSON), st.text())
def test_whatever_was_asked_and_answered_can_be_sent(request_, answer, model):
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("t")
    span = tracer.start_span(genai.name("chat", model), attributes=dict(genai.asked("chat", request_)))
    span.set_attributes(dict(genai.answered(answer)))
    span.end()
    sent = encode_spans([span]).SerializeToString()
    assert len(sent) < 10_000


@pytest.mark.parametrize("traceparent", ["", "x", "00-" + "0" * 32 + "-" + "0" * 16 + "-01", "00-" * 9999, None])
def test_a_context_that_is_none_counts_as_none(traceparent):
    assert carrier.parent(traceparent, "a=1") is None


def test_a_tracestate_without_end_is_left_behind():
    context = carrier.parent(CONTEXT["traceparent"], "a=1," * 100_000)
    assert context is not None
    assert not trace.get_current_span(context).get_span_context().trace_state


def test_an_api_is_called_as_the_conventions_have_it():
    assert genai.provider("gemini") == ("gen_ai.provider.name", "gcp.gemini")
    assert genai.provider("openai") == ("gen_ai.provider.name", "openai")
