"""Log lines: their form, their level, and what must never be in them."""

from __future__ import annotations

import io
import json
import logging
import sys
import threading
import warnings
from types import SimpleNamespace

import pytest
import structlog

from deltabus import logs, telemetry
from deltabus.settings import ProviderSettings, Settings
from deltabus.telemetry import Watch

SECRET = 'sk-1"2\\3éwxyz'


@pytest.fixture
def lines():
    """Configure logging and get the stream that it writes to; what was configured before is put back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in logs.TALKATIVE}
    out = io.StringIO()

    def configure(stream: io.StringIO = out, **changes: object) -> io.StringIO:
        acme = ProviderSettings(name="acme", secrets=frozenset({SECRET}))
        logs.configure(Settings(providers={"acme": acme}, **changes), stream)
        return stream

    yield configure
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, former in levels.items():
        logging.getLogger(name).setLevel(former)
    structlog.reset_defaults()


def test_a_line_is_json_with_what_is_bound(lines):
    out = lines(log_format="json")
    with structlog.contextvars.bound_contextvars(task="t1"):
        structlog.get_logger("deltabus.engine").info("attempt begins", attempt=2)
    line = json.loads(out.getvalue())
    assert line.pop("timestamp").endswith("Z")
    assert list(line.items())[:3] == [("level", "info"), ("logger", "deltabus.engine"), ("message", "attempt begins")]
    assert dict(list(line.items())[3:]) == {"attempt": 2, "task": "t1"}


def test_libraries_lines_have_the_same_form(lines):
    out = lines(log_format="json")
    with structlog.contextvars.bound_contextvars(task="t1"):
        logging.getLogger("rq.worker").warning("lost %s", "a job")
    line = json.loads(out.getvalue())
    assert (line["message"], line["logger"], line["level"], line["task"]) == (
        "lost a job",
        "rq.worker",
        "warning",
        "t1",
    )


def test_a_terminal_gets_text_and_a_pipe_gets_json(lines):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for stream, is_json in ((Terminal(), False), (io.StringIO(), True)):
        lines(stream, log_format="auto")
        structlog.get_logger().info("hello")
        assert stream.getvalue().startswith("{") is is_json
        assert "hello" in stream.getvalue()


@pytest.mark.parametrize("form", ["json", "console"])
def test_secrets_are_masked_wherever_they_got_into(lines, form):
    out = lines(log_format=form, log_level="debug")
    log = structlog.get_logger()
    log.info("key %s", SECRET, key=SECRET, nested={"a": [SECRET]})
    logging.getLogger("somewhere").error("url %s", SECRET)
    try:
        int(SECRET)
    except ValueError:
        log.exception("refused")
        logging.getLogger("somewhere").exception("refused")
    told = out.getvalue()
    assert told.count("***") == 6
    assert "wxyz" not in told
    assert told.count("Traceback") == 2


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_traceback_shows_no_local_variables(lines, form):
    out = lines(log_format=form)
    prompt = "what the user asked"
    try:
        prompt.index("zzz")
    except ValueError:
        structlog.get_logger().exception("failed")
    assert "Traceback" in out.getvalue()
    assert "what the user" not in out.getvalue()


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_tracebacks_words_are_shown_where_they_can_hold_nothing_of_a_task_or_at_debug(lines, form):
    prompt, answer = "a pro" + "mpt", "an ans" + "wer"  # a traceback shows the line that raised

    def told(level: str) -> str:
        out = lines(io.StringIO(), log_format=form, log_level=level)
        try:
            try:
                int(prompt)
            except ValueError as exc:
                raise KeyError(answer) from exc
        except KeyError as exc:
            group = ExceptionGroup(prompt, [exc, FileNotFoundError("no such file"), TypeError("not callable")])
            structlog.get_logger().error("failed", exc_info=group)
        return out.getvalue()

    shown = told("info")
    for kind in ("ValueError", "KeyError", "ExceptionGroup", "no such file", "not callable", "test_logs.py"):
        assert kind in shown
    assert prompt not in shown
    assert answer not in shown
    assert f"invalid literal for int() with base 10: '{prompt}'" in told("debug")


def test_a_line_for_an_attempt_names_it(lines):
    out = lines(log_format="json")
    watch = Watch("t1", "chat", 2, "w")
    watch.provider = "main"
    token = telemetry.attend(watch)
    structlog.get_logger().info("one")
    logging.getLogger("somewhere").info("two")
    telemetry.leave(token)
    structlog.get_logger().info("three")
    one, two, three = map(json.loads, out.getvalue().splitlines())
    for line in (one, two):
        assert (line["task"], line["attempt"], line["queue"], line["provider"]) == ("t1", 2, "chat", "main")
    assert "task" not in three


def test_what_nobody_catches_comes_out_as_lines(lines, monkeypatch):
    for module, name in ((sys, "excepthook"), (sys, "unraisablehook"), (threading, "excepthook")):
        monkeypatch.setattr(module, name, getattr(module, name))
    out = lines(log_format="json")
    logs.catch_all()
    try:
        error = ValueError("a prompt")
        thread = threading.Thread(target=int, args=("a prompt",), name="worker of wonders")
        thread.start()
        thread.join()
        sys.excepthook(ValueError, error, None)
        sys.unraisablehook(SimpleNamespace(exc_value=error))
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("old", DeprecationWarning, stacklevel=1)
    finally:
        logging.captureWarnings(capture=False)
    told = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [line["level"] for line in told] == ["error", "critical", "error", "warning"]
    assert told[0]["thread"] == "worker of wonders"
    assert "DeprecationWarning: old" in told[3]["message"]
    assert "a prompt" not in out.getvalue()


def test_the_level_holds_for_both_kinds_of_lines(lines):
    out = lines(log_level="warning", log_format="json")
    structlog.get_logger("a").info("no")
    logging.getLogger("b").info("no")
    assert out.getvalue() == ""


def test_a_line_for_each_request_is_not_for_the_log(lines):
    out = lines(log_level="info")
    logging.getLogger("httpx").info("HTTP Request: POST https://h/v1?key=…")
    assert out.getvalue() == ""


def test_configuring_again_replaces_and_leaves_others_handlers_alone(lines):
    first = lines()
    theirs = logging.NullHandler()
    logging.getLogger().addHandler(theirs)
    second = lines(io.StringIO())
    structlog.get_logger().info("once")
    assert first.getvalue() == ""
    assert second.getvalue().count("once") == 1
    assert theirs in logging.getLogger().handlers


def test_what_json_cannot_say_is_logged_as_text(lines):
    out = lines(log_format="json")
    structlog.get_logger().info("odd", value=object)
    assert json.loads(out.getvalue())["value"] == "<class 'object'>"
