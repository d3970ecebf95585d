"""Log lines: their form, their level, and what must never be in them."""

from __future__ import annotations

import io
import json
import logging

import pytest
import structlog

from deltabus import logs
from deltabus.settings import ProviderSettings, Settings

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
    out = lines(log_format=form)
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
