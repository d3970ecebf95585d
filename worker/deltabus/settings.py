"""One frozen `Settings`, from `deltabus.toml` and the environment; the only reader of `os.environ`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderSettings:
    """A table `[providers.<name>]`."""

    name: str
    #: Entry-point name of the plugin.
    plugin: str
    #: Model patterns (`fnmatch`) that this provider serves; the first match in file order wins.
    models: tuple[str, ...] = ("*",)
    #: The rest of the table, for the plugin; `${NAME}` replaced. May hold secrets: never print it.
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that can be set. Durations are seconds, sizes are bytes."""

    redis_url: str = field(default="redis://localhost:6379/0", repr=False)
    #: Queues to work on, highest priority first.
    queues: tuple[str, ...] = ("chat", "file")
    #: Attempts that one process runs at once.
    concurrency: int = 100
    #: For how long a log and a result live after the terminal event.
    result_ttl: int = 3600
    #: For how long RQ keeps a failed job.
    failure_ttl: int = 7 * 24 * 3600
    #: Seconds an attempt may take where neither job nor envelope says so.
    job_timeout: int = 3600
    #: A worker that has not renewed its lease for this long is taken for dead.
    lease: float = 10.0
    #: How often leases are renewed and RQ's heartbeats sent.
    heartbeat_interval: float = 3.0
    #: How long attempts may go on after SIGTERM.
    drain_timeout: float = 25.0
    #: Largest envelope, as JSON.
    max_request_bytes: int = 4 * 1024 * 1024
    #: Largest answer, as JSON.
    max_answer_bytes: int = 32 * 1024 * 1024
    #: Largest log of one task; above it, a snapshot replaces what was streamed.
    max_log_bytes: int = 4 * 1024 * 1024
    #: Deltas of one task that may wait for Redis before the provider's socket is no longer read.
    max_pending_bytes: int = 256 * 1024
    #: Hosts that a job's RQ webhooks may call.
    webhook_hosts: tuple[str, ...] = ()
    log_level: str = "info"
    #: `console`, `json`, or `auto`: console on a terminal.
    log_format: str = "auto"
    providers: Mapping[str, ProviderSettings] = field(default_factory=dict)
