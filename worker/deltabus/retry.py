"""Whether and when a failed attempt is tried again: a pure decision, carried out by the engine.

The delay is the provider's word where it gave one (``Retry-After``), else exponential backoff with full
jitter (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/), and never leads past
the task's deadline: a task that cannot make it any more fails at once, with the provider's error.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

from deltabus.errors import TaskError

#: Seconds above which a provider's ``Retry-After`` is not waited for: it means "not today".
LONGEST_WAIT: Final = 3600.0

#: Further doublings of the delay do not fit into a float, and no cap is that high.
_DOUBLINGS: Final = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How often and how soon; from the settings, and from the task where it says so."""

    #: Attempts beyond the first.
    max_retries: int
    #: Seconds: the first delay is drawn from 0 up to here, and each further one from twice as far.
    delay: float
    #: Seconds: no delay of ours is longer.
    max_delay: float
    #: `restart` or `fail`: what happens to a task that fails after it has streamed something.
    after_delta: str


@dataclass(frozen=True, slots=True)
class Retry:
    """Try again in `delay` seconds."""

    delay: float


@dataclass(frozen=True, slots=True)
class Fail:
    """Do not; `why` is for the log line."""

    why: str


def decide(
    error: TaskError, policy: Policy, *, failures: int, streamed: bool, now: float, deadline: float | None
) -> Retry | Fail:
    """What to do about `error`.

    Args:
        failures: attempts of this task that have failed before, not counting this one.
        streamed: subscribers have seen a part of the answer.
        now, deadline: Unix time, seconds.
    """
    if not error.may_pass:
        return Fail("it would fail again")
    if failures >= policy.max_retries:
        return Fail(f"{failures} retries have failed")
    if streamed and policy.after_delta == "fail":
        return Fail("a part of the answer was streamed, and the policy is to keep it")
    delay = error.retry_after
    if delay is None:
        # Full jitter spreads what failed together; it hides nothing.
        reach = min(policy.max_delay, policy.delay * 2.0 ** min(failures, _DOUBLINGS))
        delay = random.uniform(0, reach)  # noqa: S311
    elif delay > LONGEST_WAIT:
        return Fail(f"the provider asks to wait for {delay:.0f} s")
    delay = max(0.0, delay)
    if deadline is not None and now + delay >= deadline:
        return Fail("the deadline comes before the next try")
    return Retry(delay)
