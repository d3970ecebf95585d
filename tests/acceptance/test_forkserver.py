"""A process of the fork server is what a fresh one is, as far as a test can see."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import pytest
from forkserver import ForkServer, available
from processes import Background, environ, fork_server, run

#: What a process is made of, as JSON.
PROGRAM = """
import gc, json, os, signal, sys, threading, warnings
streams = sys.stdin, sys.stdout, sys.stderr
print(json.dumps({
    "arguments": sys.argv,
    "environ": dict(os.environ),
    "folder": os.getcwd(),
    "leads its group": os.getpgrp() == os.getpid(),
    "name": __name__,
    "path": sys.path,
    "flags": [getattr(sys.flags, name) for name in sys.flags.__match_args__ if name != "safe_path"],
    "descriptors": [fd for fd in range(100) if os.path.exists(f"/proc/self/fd/{fd}")],
    "input": os.read(0, 1).decode(),
    "signals": [str(signal.getsignal(number)) for number in sorted(signal.valid_signals())],
    "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
    "streams": [[stream.encoding, stream.errors, stream.write_through, stream.line_buffering] for stream in streams],
    "threads": [thread.name for thread in threading.enumerate()],
    "warnings": [str(entry) for entry in warnings.filters],
    "garbage": gc.get_threshold(),
}, default=str))
print("to stderr", file=sys.stderr)
sys.exit(3)
"""

#: Waits until a signal ends it.
WAITING = "import signal; print('here'); signal.pause()"

pytestmark = pytest.mark.skipif(not available(), reason="only on Linux, without coverage")


@pytest.mark.parametrize("safe", [(), ("-P",)], ids=["", "-P"])
def test_all_that_a_program_finds_is_as_in_a_fresh_process(tmp_path: Path, safe: tuple[str, ...]) -> None:
    said = []
    for fresh in (True, False):
        command = [sys.executable, *safe, "-c", PROGRAM, "one", "--two"]
        variables = environ(DELTABUS_X="é\n", HOME=str(tmp_path))
        with Background(command, folder=tmp_path, environ=variables, fresh=fresh) as process:
            assert process.end() == 3
            assert process.process.returncode == process.process.poll() == 3
        first, second = process.said.splitlines()
        said.append(json.loads(first))
        assert second == "to stderr"
    assert said[0] == said[1]


def test_a_module_is_found_in_the_folder_unless_that_is_forbidden(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("import sys\nprint(__name__, sys.argv[1:])")
    for safe, code in (((), 0), (("-P",), 1)):
        for fresh in (True, False):
            command = [sys.executable, *safe, "-m", "mine", "x"]
            with Background(command, folder=tmp_path, environ=environ(), fresh=fresh) as process:
                assert process.end() == code
                assert ("__main__ ['x']" in process.said) == (code == 0)
                assert ("No module named mine" in process.said) == (code == 1)


def test_a_signal_that_ends_it_is_its_exit_code() -> None:
    with Background([sys.executable, "-c", WAITING], environ=environ()) as it:
        it.wait_for("here")
        assert it.process.poll() is None
        it.process.terminate()
        assert it.process.wait(60) == -signal.SIGTERM
        it.process.kill()  # There is nobody left; whoever has its number now is left alone.


def test_one_that_needs_another_interpreter_is_started_afresh() -> None:
    server = fork_server()
    assert server is not None
    command = [sys.executable, "-c", "pass"]
    assert server.suits(command, environ())
    for variable in ("PYTHONPATH", "PYTHONDEVMODE", "RQ_KEY_PREFIX", "SSL_CERT_FILE", "TZ", "LC_ALL"):
        assert not server.suits(command, environ(**{variable: "x"})), variable
    for other in (["bash", "-c", "true"], [sys.executable, "-I", "-c", "pass"], [sys.executable, "a.py"]):
        assert not server.suits(other, environ())


def test_what_it_has_forked_ends_with_it() -> None:
    server = ForkServer(environ())
    reader, writer = os.pipe()
    command = [sys.executable, "-c", WAITING]
    process = server.start(command, folder=None, environ=environ(), stdout=writer, stderr=writer)
    os.close(writer)
    with os.fdopen(reader, "rb") as said:
        assert said.readline() == b"here\n"
        server.stop()
        assert process.wait(60) == -signal.SIGKILL
        assert said.read() == b""


def test_outputs_are_told_apart_and_files_serve_too() -> None:
    done = run([sys.executable, "-c", PROGRAM], environ=environ())
    assert (done.returncode, done.stderr) == (3, "to stderr\n")
    assert json.loads(done.stdout)["arguments"] == ["-c"]
