"""OTEL_* variables that cannot work are one clear error that does not quote them, and no log shows what they hide."""

from __future__ import annotations

import base64
import json
import logging
import os
import re
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, example, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from deltabus.cli import main
from deltabus.errors import ConfigError
from deltabus.tracing import discretion, lastword, source, variables

SECRET = "sk-4f8a1c7e"

#: Nobody listens there.
AWAY = "redis://127.0.0.1:1"

HEADERS = "OTEL_EXPORTER_OTLP_HEADERS"
ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
FILES = ("CERTIFICATE", "CLIENT_CERTIFICATE", "CLIENT_KEY")

WRONG = [
    {HEADERS: f"authorization: Bearer {SECRET}"},
    {HEADERS: f"authorization: Bearer={SECRET}"},
    {HEADERS: f'authorization="Bearer {SECRET}"'},
    {HEADERS: f"x-a=1,{SECRET}"},
    {HEADERS: f"authorization={SECRET}%0d%0ax-evil: 1"},
    {HEADERS: f"authorization={SECRET}%E2%82%AC"},
    {HEADERS: f"authorization={SECRET};x"},
    {"OTEL_EXPORTER_OTLP_TRACES_HEADERS": SECRET},
    {ENDPOINT: "garbage"},
    {ENDPOINT: f"bob:{SECRET}@host:4318"},
    {ENDPOINT: f"http://bob:{SECRET}/x@host:4318"},
    {ENDPOINT: f"http://bob:{SECRET}@"},
    {ENDPOINT: f"http://host:{SECRET}"},
    {ENDPOINT: "http://host:99999"},
    {ENDPOINT: f"ftp://bob:{SECRET}@host"},
    {ENDPOINT: f"http://host?key={SECRET}"},
    {ENDPOINT: "http://ho st"},
    {ENDPOINT: "http://[::1"},
    {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"//{SECRET}@host"},
    {"OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE": f"-----BEGIN CERTIFICATE-----\n{SECRET * 100}"},
    {"OTEL_EXPORTER_OTLP_CLIENT_KEY": f"/nowhere/{SECRET}"},
    {"OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": "/dev/zero"},
    {"OTEL_EXPORTER_OTLP_TIMEOUT": SECRET},
    {"OTEL_EXPORTER_OTLP_TRACES_TIMEOUT": "nan"},
    {"OTEL_EXPORTER_OTLP_TIMEOUT": "-1"},
    {"OTEL_EXPORTER_OTLP_TIMEOUT": "inf"},
    {"OTEL_EXPORTER_OTLP_COMPRESSION": SECRET},
    {"OTEL_BSP_SCHEDULE_DELAY": "-1"},
    {"OTEL_BSP_SCHEDULE_DELAY": "0"},
    {"OTEL_BSP_SCHEDULE_DELAY": "9" * 5000},
    {"OTEL_BSP_MAX_QUEUE_SIZE": "0"},
    {"OTEL_BSP_MAX_QUEUE_SIZE": "99999999999999999999"},
    {"OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "100000"},
    {"OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "many"},
    {"OTEL_BSP_EXPORT_TIMEOUT": "x"},
    {"OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "-3"},
    {"OTEL_SPAN_EVENT_COUNT_LIMIT": "1.5"},
    {"OTEL_SPAN_LINK_COUNT_LIMIT": "x"},
    {"OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": "-1"},
    {"OTEL_TRACES_SAMPLER_ARG": "x"},
    {"OTEL_TRACES_SAMPLER_ARG": "nan"},
    {"OTEL_TRACES_SAMPLER_ARG": "1.1"},
    {"OTEL_TRACES_SAMPLER": SECRET},
    {"OTEL_RESOURCE_ATTRIBUTES": f"a=1,{SECRET}"},
    {"OTEL_SERVICE_NAME": "\udcff"},
    {"OTEL_PYTHON_TRACER_PROVIDER": SECRET},
    {"OTEL_PYTHON_METER_PROVIDER": SECRET},
    {"OTEL_PYTHON_CONTEXT": SECRET},
    {"OTEL_EXPERIMENTAL_RESOURCE_DETECTORS": f"otel,{SECRET}"},
]

RIGHT: list[dict[str, str]] = [
    {HEADERS: f"authorization=Bearer {SECRET}, x-scope-orgid = 1,,x-empty="},
    {HEADERS: f"Authorization=Basic%20{SECRET}=="},
    {ENDPOINT: f"https://bob:{SECRET}@collector.example:4318/otlp/"},
    {ENDPOINT: "http://[::1]:4318"},
    {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"https://host/v1/traces?key={SECRET}"},
    {ENDPOINT: "", "OTEL_BSP_SCHEDULE_DELAY": "", "OTEL_TRACES_SAMPLER_ARG": "", "OTEL_BSP_MAX_QUEUE_SIZE": " "},
    {"OTEL_BSP_MAX_QUEUE_SIZE": "100"},
    {"OTEL_TRACES_SAMPLER": "PARENTBASED_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.25"},
    {"OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "0"},
    {"OTEL_EXPORTER_OTLP_TIMEOUT": "2.5", "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip"},
    {"OTEL_RESOURCE_ATTRIBUTES": "team=s%2Fearch,zone=1"},
    {"OTEL_EXPORTER_OTLP_CERTIFICATE": "/etc"},
    {"OTEL_EXPERIMENTAL_RESOURCE_DETECTORS": "process, otel"},
    {"OTEL_PYTHON_CONTEXT": "contextvars_context"},
]


@pytest.fixture(autouse=True)
def nothing_made(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    made: list[Any] = []
    monkeypatch.setattr(source, "_own", made)
    monkeypatch.setattr(source.atexit, "register", lambda *_: None)
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    yield
    for provider in made:
        provider.shutdown()  # its thread would go on in other tests


def name_of(environ: dict[str, str]) -> str:
    return list(environ)[-1]


def put(monkeypatch: pytest.MonkeyPatch, environ: dict[str, str]) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("environ", WRONG, ids=name_of)
def test_a_variable_that_cannot_work_is_named_and_not_quoted(monkeypatch, caplog, environ):
    put(monkeypatch, environ)
    with pytest.raises(ConfigError) as caught:
        source.tracer("s")
    assert name_of(environ) in str(caught.value)
    assert re.search(" must (be|have|name) ", str(caught.value))
    assert SECRET not in str(caught.value) + caplog.text
    assert caught.value.__cause__ is None
    assert not source._own


@pytest.mark.parametrize("environ", RIGHT, ids=name_of)
def test_a_variable_that_works_is_taken_without_a_word(monkeypatch, caplog, environ):
    put(monkeypatch, environ)
    source.tracer("s").start_span("x")
    assert not caplog.records


@pytest.mark.parametrize("suffix", FILES)
def test_a_pipe_or_a_file_without_a_certificate_is_refused_and_not_waited_for(monkeypatch, tmp_path, suffix):
    name = f"OTEL_EXPORTER_OTLP_{suffix}"
    (tmp_path / "text").write_text("-----BEGIN" if suffix != "CERTIFICATE" else "-----BEGIN CERTIFICATE-----\nx\n")
    os.mkfifo(tmp_path / "pipe")
    for found in ("text", "pipe"):
        monkeypatch.setenv(name, str(tmp_path / found))
        with pytest.raises(ConfigError, match=f"{name} must be the path of a file that can be read"):
            source.tracer("s")


def test_over_grpc_an_endpoint_needs_no_scheme_and_takes_no_password():
    variables.check_otlp({ENDPOINT: "collector:4317"}, grpc=True)
    with pytest.raises(ConfigError, match=f"{ENDPOINT} must have no user and password") as caught:
        variables.check_otlp({ENDPOINT: f"http://bob:{SECRET}@host"}, grpc=True)
    assert SECRET not in str(caught.value)


def test_variables_of_an_exporter_that_is_not_used_do_not_matter(monkeypatch):
    put(monkeypatch, {"OTEL_TRACES_EXPORTER": "none", ENDPOINT: "garbage"})
    source.tracer("s")


def test_the_variable_for_traces_counts_before_the_one_for_all(monkeypatch):
    put(monkeypatch, {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://host/v1/traces", ENDPOINT: "garbage"})
    source.tracer("s")


def test_a_batch_is_no_larger_than_a_small_queue():
    assert variables.batching({"OTEL_BSP_MAX_QUEUE_SIZE": "100"})["max_export_batch_size"] == 100


def test_what_an_exporter_raises_is_one_error_without_its_secrets(monkeypatch):
    class Plugin:
        def load(self) -> Any:
            def make() -> Any:
                raise RuntimeError(f"no connection with {SECRET}")

            return make

    monkeypatch.setattr(source, "entry_points", lambda **_: [Plugin()])
    monkeypatch.setenv(HEADERS, f"authorization=Bearer {SECRET}")
    with pytest.raises(ConfigError, match=r"cannot be set up as OTEL_\* variables say: RuntimeError") as caught:
        source.tracer("s")
    assert SECRET not in str(caught.value)


def test_the_sdks_loggers_and_its_http_clients_keep_the_secrets(monkeypatch, caplog):
    encoded = base64.b64encode(f"bob:{SECRET}".encode()).decode()
    put(monkeypatch, {HEADERS: f"authorization=Basic%20{encoded}", ENDPOINT: f"http://bob:pass-{SECRET}@127.0.0.1:1"})
    source.tracer("s")
    for name in (
        "opentelemetry.util.re",
        "opentelemetry.exporter.otlp.proto.http.trace_exporter",
        "urllib3.util.retry",
    ):
        log = logging.getLogger(name)
        log.warning("refused: %s at %s", f"Basic {encoded}", f"http://bob:pass-{SECRET}@127.0.0.1:1")
        try:
            raise OSError(f"Basic {encoded}")  # noqa: TRY301 # as an exporter would
        except OSError:
            log.exception("while exporting %s", "spans")
        log.warning("retrying in %.1f s", 1)
    assert encoded not in caplog.text
    assert SECRET not in caplog.text
    assert "OSError: ***" in caplog.text
    assert "retrying in 1.0 s" in caplog.text
    monkeypatch.delenv(HEADERS)
    discretion.keep(())


def test_what_an_exporter_says_of_a_collector_that_is_away_it_says_once_a_minute():
    now = 100.0
    filtering = discretion.Discretion((), clock=lambda: now)

    def passes(logger: str, number: int) -> bool:
        return filtering.filter(logging.LogRecord(logger, 30, "", 0, "error %d, retrying", (number,), None))

    exporter = "opentelemetry.exporter.otlp.proto.http.trace_exporter"
    assert [passes(exporter, number) for number in range(3)] == [True, False, False]
    assert passes("opentelemetry.sdk.trace", 1)
    assert passes("opentelemetry.sdk.trace", 2)
    now += discretion.PAUSE
    assert passes(exporter, 4)
    for number in range(2 * discretion.KINDS):
        filtering.filter(logging.LogRecord(exporter, 30, "", 0, f"error {number}", (), None))
    assert len(filtering._said) <= discretion.KINDS


TEXTS = st.text(st.characters(codec=None, exclude_characters="\0"), max_size=40)


@examples(max_examples=200, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from([*(name_of(environ) for environ in WRONG)]), TEXTS | st.integers().map(str)))
@example({ENDPOINT: "http://[", HEADERS: "=%"})
def test_whatever_is_in_them_it_is_taken_or_one_error(environ):
    try:
        variables.secrets(environ)
        variables.check(environ)
        variables.batching(environ)
        variables.check_otlp(environ, grpc=False)
        variables.check_otlp(environ, grpc=True)
    except ConfigError as exc:
        assert "OTEL_" in str(exc)  # noqa: PT017 # what works raises nothing


def test_check_names_the_variable_and_ends_as_for_settings(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    environ = {"DELTABUS_TRACES": "on", HEADERS: f"authorization: Bearer {SECRET}", "DELTABUS_REDIS_URL": AWAY}
    result = CliRunner(env=environ).invoke(main, ["check", "--json"])
    (finding,) = (finding for finding in json.loads(result.stdout)["findings"] if finding["subject"] == "traces")
    assert finding["state"] == "error"
    assert HEADERS in finding["detail"]
    assert SECRET not in result.output


class Stuck:
    """What never comes back before it is let go."""

    def __init__(self) -> None:
        self.called, self.free = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.called.set()
        self.free.wait()


def test_a_collector_that_hangs_does_not_keep_the_process(monkeypatch):
    monkeypatch.setattr(lastword, "PATIENCE", 0.01)
    work = Stuck()
    lastword.LastWord(work).say()
    assert work.called.wait(60)
    work.free.set()


def test_a_fork_says_its_last_word_too(monkeypatch):
    said = threading.Event()
    word = lastword.LastWord(said.set)
    monkeypatch.setattr(word, "_process", -1)
    monkeypatch.setattr(word, "_thread", threading.Thread())
    word.say()
    assert said.wait(60)


def test_a_flush_that_hangs_is_not_waited_for_by_the_next_job(monkeypatch):
    monkeypatch.setattr(source, "PATIENCE", 0.01)
    work, calls = Stuck(), []
    flushing = SimpleNamespace(force_flush=lambda: (calls.append(1), work()), shutdown=lambda: None)
    monkeypatch.setattr(source, "_own", [flushing])
    source.flush()
    source.flush()
    work.free.set()
    source._flushing[0].join(60)
    assert len(calls) == 1
    source.flush()
    source._flushing[0].join(60)
    assert len(calls) == 2
