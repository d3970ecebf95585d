"""Runs one command and ends it with its owner, however the owner ends.

    python guard.py <owner's pid> <folder to remove, or ''> <command> [argument ...]

A process of its own, because no other way holds everywhere: a parent-death signal fires when the
*thread* that started the child ends, a `preexec_fn` may deadlock in a program with threads, and
`atexit` does not run on SIGKILL. The guard has one thread and imports nothing of deltabus.

It prints the command's pid as one line. Each byte on its standard input is a signal number for
the command. Its end (the owner closed it, or is gone), or a parent other than the owner, means: kill the
command with everything it started, remove the folder, leave. The guard exits as the command does.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import shutil
import signal
import sys

#: Seconds between two looks at the parent. Usually the end of the input comes first; a process that the
#: owner forked keeps that open, and then this is what counts.
OWNER_CHECK = 1.0
#: Linux' `prctl` option: the signal that a process gets when the thread that forked it ends.
PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> int:
    owner, scratch, command = int(arguments[0]), arguments[1], arguments[2:]
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)  # Only so that it wakes select(); which one it was is read below.
    child = spawn(command)
    os.write(sys.stdout.fileno(), b"%d\n" % child)
    os.close(sys.stdout.fileno())
    orders = sys.stdin.fileno()
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        ready, _, _ = select.select([orders, woken], [], [], OWNER_CHECK)
        told_to_leave = woken in ready and any(number != signal.SIGCHLD for number in os.read(woken, 64))
        order = os.read(orders, 1) if orders in ready else None
        if told_to_leave or order == b"" or os.getppid() != owner:
            break
        if order:
            os.kill(child, order[0])
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    if scratch:
        shutil.rmtree(scratch, ignore_errors=True)
    return 0


def spawn(command: list[str]) -> int:
    """Start the command in a process group of its own, without input; its output goes where errors go."""
    guard = os.getpid()
    child = os.fork()
    if child:
        # Both sides do this: whichever comes first, the group is there before anybody signals it.
        with contextlib.suppress(PermissionError, ProcessLookupError):
            os.setpgid(child, child)
        return child
    try:
        os.setpgid(0, 0)
        if sys.platform == "linux":
            # The guard may be killed too. It has one thread, so for its child this signal is reliable.
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == guard:
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(2, 1)
            os.environ["LC_ALL"] = "C"  # Redis 7 refuses to start under a locale that is named but not installed.
            os.execv(command[0], command)  # noqa: S606 - no shell is the point
    except OSError as exc:
        os.write(2, f"{command[0]}: {exc.strerror}\n".encode())
    os._exit(127)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
