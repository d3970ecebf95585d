"""The signals that ask a process to stop in good order: SIGTERM, Ctrl+C, and the end of the terminal.

A worker that was started by hand, over a connection that breaks, gets SIGHUP, which would kill it at once with all
that it runs. Where somebody has seen to it that it is ignored, as `nohup` does, it stays so.
"""

from __future__ import annotations

import signal


def stop_signals() -> tuple[signal.Signals, ...]:
    """Those that this process has to handle."""
    is_ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return (signal.SIGTERM, signal.SIGINT) if is_ignored else (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
