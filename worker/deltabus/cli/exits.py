"""Exit codes, and what each error says on stderr: one line, with the way out of it."""

from __future__ import annotations

import re
import sys
from typing import Final

import click

from deltabus.cli import harmless
from deltabus.errors import BusUnavailable, ConfigError, DeltabusError, TaskError, TaskExists, TaskNotFound

#: What was asked for is done.
DONE: Final = 0
#: The task failed, was cancelled, or is not done in the time given; or a check found something wrong.
FAILED: Final = 1
#: The command line, an argument or the configuration is wrong; a task id is unknown, or taken.
USAGE: Final = 2
#: Redis cannot be reached.
UNREACHABLE: Final = 3
#: To this, the number of a signal is added that has ended a command which had something to put in order first.
SIGNALLED: Final = 128
#: 128 + SIGINT: Ctrl+C.
INTERRUPTED: Final = 130
#: 128 + SIGPIPE: the reader of the output is gone.
PIPE: Final = 141


#: What to do about it, by the words of Redis 6.2 to 7.4, redis-py and `topology`; where none is there, nobody answers.
_WAYS: Final = (
    (r"takes no writes", "try again; `deltabus check` says more"),
    (
        r"busy running a script|UNKILLABLE",
        "it is there: wait for the script, or end one that has written nothing: `deltabus redis SCRIPT KILL`",
    ),
    (
        r"max number of clients",
        "it is there, and takes no more connections: raise its `maxclients`, or see whose they are (CLIENT LIST)",
    ),
    (
        r"certificate has expired|certificate is not yet valid",
        "it is there: renew its certificate, and see whether this host's clock is right",
    ),
    (r"[Tt]oo many open files", "raise the limit of this process: ulimit -n, LimitNOFILE="),
    (
        (
            r"loading the dataset|maxmemory|read only replica|READONLY|OOM|MISCONF|MASTERDOWN|Link with MASTER|"
            r"NOREPLICAS|CLUSTERDOWN|cluster is down|TRYAGAIN|not the server to"
        ),
        "it is there: try again, or see what ails it with `deltabus check`",
    ),
    (
        (
            r"username-password|WRONGPASS|NOAUTH|Authentication required|without any password|no password is set|"
            # How a server that wants a password greets who has none and speaks RESP3.
            r"HELLO must be called"
        ),
        "it is there: see to its user and password; `deltabus check` says where they are from",
    ),
    (r"DB index is out of range", "it is there: choose a database that it has, by the number in the URL"),
    (
        r"the server's certificate|the certificate that it is shown|`ssl_keyfile`",
        "see to the certificates that the URL's options name",
    ),
    (
        r"at rediss(\+\w+)?://.*(Timeout connecting|timed out|SSL|handshake|EOF)",
        "see whether this port speaks TLS, and whose certificate it shows",
    ),
    (
        r"is no (Sentinel|node of a Cluster)",
        "it is there: choose the URL's kind by what it is, and redis:// for a server that stands alone",
    ),
    (
        r"MovedError",
        "it is a node of a Cluster: name that as redis+cluster://host:port, with RQ_KEY_PREFIX={rq}",
    ),
    (
        r"Timeout reading from socket",
        "it takes connections: it is busy or stopped, or what it was asked for takes longer than `redis_timeout`",
    ),
    (r"", "start one with `deltabus dev`, or name yours with --redis URL"),
)


def code(error: BaseException) -> int:
    """The exit code for an error."""
    match error:
        case click.Abort() | KeyboardInterrupt():
            return INTERRUPTED
        case BusUnavailable():
            return UNREACHABLE
        case click.ClickException() | ConfigError() | TaskExists() | TaskNotFound() | TaskError():
            return USAGE
        case DeltabusError() | TimeoutError():
            return FAILED
    return UNREACHABLE if _is_redis_unreachable(error) or _state(error) else FAILED


def explain(error: BaseException) -> str | None:
    """The error as one line; None for what is a bug, whose traceback is wanted."""
    match error:
        case click.Abort() | KeyboardInterrupt():
            return "interrupted"
        case click.UsageError():
            where = error.ctx.command_path if error.ctx else "deltabus"
            return _line(f"{error.format_message()} (try: {where} --help)")
        case click.ClickException():
            return _line(error.format_message())
        case BusUnavailable():
            return _unreachable(str(error))
        case TaskError():
            return _line(f"{error.param}: {error.message}" if error.param else error.message)
        case DeltabusError():
            return _line(str(error))
    if _is_redis_unreachable(error):
        return _unreachable(f"cannot reach Redis: {error}")
    if (state := _state(error)) is not None:
        return _unreachable(f"Redis takes no writes: {state}")
    if "redis.exceptions" in sys.modules:
        from deltabus.refusal import advice

        if (hint := advice(error)) is not None:
            return _line(f"Redis refuses: {error}; {hint}")
    return None


def _line(message: str) -> str:
    return harmless.line(" ".join(message.split()))


def way_out(message: str) -> str:
    """What to do about a Redis that cannot be reached, as a message says."""
    return next(way for words, way in _WAYS if re.search(words, message))


def _unreachable(message: str) -> str:
    return _line(f"{message.rstrip('. ')}; {way_out(message)}")


def _is_redis_unreachable(error: BaseException) -> bool:
    """Without loading redis, which takes longer than many a command: where it is not loaded, it raised nothing."""
    exceptions = sys.modules.get("redis.exceptions")
    return exceptions is not None and isinstance(error, (exceptions.ConnectionError, exceptions.TimeoutError))


def _state(error: BaseException) -> str | None:
    """Why Redis takes no writes, where that is the error; without loading redis, as above."""
    if "redis.exceptions" not in sys.modules:
        return None
    from deltabus.refusal import no_writes

    return no_writes(error)
