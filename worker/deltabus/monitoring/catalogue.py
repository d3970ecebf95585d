"""Every metric that there is: name, type, labels, meaning. `ops/metrics.md` has the same table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

#: Upper bounds in seconds of what a person waits for: first tokens, whole answers, waiting in a queue.
LONG: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)

#: Upper bounds in seconds of what should not be noticed: gaps between two deltas, appends to a log.
SHORT: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True, slots=True)
class Metric:
    """One of them, under the name that a query uses."""

    name: str
    kind: Literal["counter", "histogram", "gauge"]
    help: str
    labels: tuple[str, ...] = ()
    #: Upper bounds in seconds of a histogram's buckets.
    buckets: tuple[float, ...] = ()


TAKEN: Final = Metric("deltabus_tasks_taken_total", "counter", "Jobs that went from a queue into a slot.", ("queue",))
STARTED: Final = Metric("deltabus_attempts_started_total", "counter", "Attempts that have begun.", ("queue",))
ENDED: Final = Metric(
    "deltabus_attempts_ended_total",
    "counter",
    "Attempts that are over: completed, failed, cancelled, retrying, parked, left_to_rq, handed_back, lost.",
    ("queue", "ending"),
)
SETTLED: Final = Metric(
    "deltabus_tasks_ended_total",
    "counter",
    "Tasks whose terminal event was written: completed, failed or cancelled; a failure has its code.",
    ("queue", "outcome", "code"),
)
FAILURES: Final = Metric(
    "deltabus_failures_total", "counter", "Tries that failed, whatever followed.", ("provider", "code")
)
RETRIES: Final = Metric(
    "deltabus_retries_total", "counter", "Failed tries that another try follows.", ("provider", "code")
)
RESPONSES: Final = Metric(
    "deltabus_provider_responses_total", "counter", "HTTP answers of providers.", ("provider", "status")
)
TOKENS: Final = Metric(
    "deltabus_tokens_total",
    "counter",
    "Tokens of completed tasks, prompt and completion, where the provider says how many.",
    ("provider", "model", "tenant", "kind"),
)
CACHED_TOKENS: Final = Metric(
    "deltabus_cached_tokens_total",
    "counter",
    "Prompt tokens that came from the provider's cache; they are among the prompt tokens.",
    ("provider", "model", "tenant"),
)
REASONING_TOKENS: Final = Metric(
    "deltabus_reasoning_tokens_total",
    "counter",
    "Completion tokens spent on reasoning; they are among the completion tokens.",
    ("provider", "model", "tenant"),
)
RECONNECTS: Final = Metric(
    "deltabus_redis_reconnects_total",
    "counter",
    "Connections to Redis that were made anew: log, records, queue, commands, other.",
    ("line",),
)
OUTAGES: Final = Metric("deltabus_redis_outages_total", "counter", "Times that Redis did not serve a worker process.")
FENCED: Final = Metric("deltabus_fenced_total", "counter", "Attempts whose task turned out to be a newer attempt's.")
RECOVERED: Final = Metric(
    "deltabus_recovered_total",
    "counter",
    "Jobs requeued that belonged to nobody: worker_lost, never_started, nobodys.",
    ("why",),
)
STALLS: Final = Metric(
    "deltabus_stalls_total",
    "counter",
    "Times that a process was found stuck: loop_blocked, not_taking.",
    ("reason",),
)
DEATHS: Final = Metric(
    "deltabus_process_deaths_total", "counter", "Processes that died under their supervisor without being told to stop."
)

WAIT: Final = Metric(
    "deltabus_queue_wait_seconds",
    "histogram",
    "From a job's being enqueued, by the producer's clock, to the begin of its first attempt.",
    ("queue",),
    LONG,
)
CPU: Final = Metric("deltabus_cpu_seconds_total", "counter", "CPU time of the worker processes; each can use one core.")
LAG: Final = Metric(
    "deltabus_loop_lag_seconds",
    "histogram",
    "How late a timer of the event loop was, asked every 2.5 seconds or more often: late, where the CPU is full.",
    (),
    SHORT,
)
FIRST_TOKEN: Final = Metric(
    "deltabus_time_to_first_token_seconds",
    "histogram",
    "From calling the provider to the first chunk of a streamed answer.",
    ("provider", "model"),
    LONG,
)
GAP: Final = Metric(
    "deltabus_delta_gap_seconds",
    "histogram",
    "Between two chunks of a streamed answer.",
    ("provider", "model"),
    SHORT,
)
DURATION: Final = Metric(
    "deltabus_attempt_duration_seconds", "histogram", "From an attempt's begin to its end.", ("provider", "model"), LONG
)
APPEND: Final = Metric(
    "deltabus_append_seconds",
    "histogram",
    "From handing an event over to its being in the task's log in Redis.",
    (),
    SHORT,
)

SLOTS: Final = Metric("deltabus_slots", "gauge", "Tasks that all processes can run at once.")
SLOTS_USED: Final = Metric("deltabus_slots_used", "gauge", "Tasks that they run now.")
PROCESSES: Final = Metric("deltabus_processes", "gauge", "Worker processes: starting, working, draining.", ("state",))
STUCK: Final = Metric("deltabus_stuck", "gauge", "Worker processes that are stuck, by reason.", ("reason",))
USABLE: Final = Metric(
    "deltabus_provider_usable", "gauge", "1: every process can use the provider; 0: one cannot.", ("provider",)
)
MEMORY: Final = Metric("deltabus_memory_bytes", "gauge", "Resident memory of the worker processes, on Linux.")
REDIS_UP: Final = Metric("deltabus_redis_up", "gauge", "1: Redis answered this scrape; 0: it did not.")
QUEUE_DEPTH: Final = Metric("deltabus_queue_depth", "gauge", "Jobs that wait in a queue.", ("queue",))
QUEUE_OLDEST: Final = Metric(
    "deltabus_queue_oldest_seconds",
    "gauge",
    "Age of the job that is taken next, 0 where none waits.",
    ("queue",),
)
QUEUE_JOBS: Final = Metric(
    "deltabus_queue_jobs",
    "gauge",
    "Jobs in RQ's registries of a queue: started, scheduled, deferred, failed.",
    ("queue", "state"),
)
INFO: Final = Metric("deltabus_info", "gauge", "1, with the version as a label.", ("version",))

#: What a process counts; it outlives the process.
COUNTED: Final = (
    *(TAKEN, STARTED, ENDED, SETTLED, FAILURES, RETRIES, RESPONSES, TOKENS, CACHED_TOKENS, REASONING_TOKENS),
    *(RECONNECTS, OUTAGES, FENCED, RECOVERED, STALLS, DEATHS, CPU, LAG, WAIT, FIRST_TOKEN, GAP, DURATION, APPEND),
)

#: What is read when somebody asks.
READ: Final = (
    *(SLOTS, SLOTS_USED, PROCESSES, MEMORY, STUCK, USABLE, REDIS_UP, QUEUE_DEPTH, QUEUE_OLDEST, QUEUE_JOBS, INFO),
)

METRICS: Final = (*COUNTED, *READ)
