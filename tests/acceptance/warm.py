"""`deltabus` and `rq` for a shell, from a process that has loaded them: a hundred commands take a tenth of the CPU.

A command is sent to it with its arguments, folder, environment and standard streams, and runs in a fork of its own, as
the program would. What starting the programs themselves takes, and does, other tests see.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

#: The programs, and the modules whose `main` they are.
PROGRAMS = {"deltabus": "deltabus.cli", "rq": "rq.cli"}

#: What their commands load when they are called.
LOADED = (
    *(
        f"deltabus.cli.{name}"
        for name in ("ask", "check", "dead", "panels", "providers", "production", "stats", "task")
    ),
    *("deltabus.cli.worker", "deltabus.bus", "deltabus.topology.clients", "deltabus.dead", "rich.table"),
)

#: Sends a command, and waits for its exit code. Its length goes first, as a stream has no messages.
CLIENT = """#!{python} -ISE
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as line:
    line.connect({place!r})
    command = json.dumps([{program!r}, sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(line, [len(command).to_bytes(4, "big")], [0, 1, 2])
    line.sendall(command)
    answer = line.recv(1)
os._exit(answer[0] if answer else 70)
"""


@contextlib.contextmanager
def programs(**variables: str) -> Iterator[Path]:
    """A folder of the programs, for a PATH.

    Args:
        variables: of the environment, where a program reads them as soon as it is loaded.
    """
    with tempfile.TemporaryDirectory(prefix="warm") as folder, socket.socket(socket.AF_UNIX) as listener:
        place = f"{folder}/socket"
        for program in PROGRAMS:
            file = Path(folder, program)
            file.write_text(CLIENT.format(python=sys.executable, place=place, program=program))
            file.chmod(0o700)
        listener.bind(place)
        listener.listen()
        # A process of its own: this one has threads, which a fork does not survive.
        command = [sys.executable, "-P", __file__, str(listener.fileno())]
        with subprocess.Popen(command, pass_fds=[listener.fileno()], env={**os.environ, **variables}) as server:
            listener.close()  # nobody waits in vain for one that has died
            try:
                yield Path(folder)
            finally:
                server.terminate()


def serve(listener: socket.socket) -> NoReturn:
    for module in (*PROGRAMS.values(), *LOADED):
        importlib.import_module(module)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those who wait for a command
    while True:
        line, _ = listener.accept()
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            listener.close()
            _attend(line)
        line.close()


def _attend(line: socket.socket) -> NoReturn:
    """Have one command run, and answer with its exit code."""
    size, streams, _, _ = socket.recv_fds(line, 4, 3)
    command = b""
    while len(command) < int.from_bytes(size, "big"):
        if not (more := line.recv(1 << 16)):
            os._exit(0)  # whoever asked was killed
        command += more
    child = os.fork()
    if child == 0:
        line.close()
        _run(streams, *json.loads(command))
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    line.sendall(bytes([code if code >= 0 else 128 - code]))
    os._exit(0)


def _run(streams: list[int], program: str, words: list[str], folder: str, environ: dict[str, str]) -> NoReturn:
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdin, sys.stdout, sys.stderr = (open(number, mode, closefd=False) for number, mode in enumerate("rww"))  # noqa: SIM115
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environ)
    sys.argv = [program, *words]
    try:
        importlib.import_module(PROGRAMS[program]).main()
        code = 0
    except SystemExit as exc:
        code = exc.code if isinstance(exc.code, int) else int(exc.code is not None)
    except BaseException:  # noqa: BLE001 # as the interpreter would
        sys.excepthook(*sys.exc_info())
        code = 1
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    os._exit(code)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
