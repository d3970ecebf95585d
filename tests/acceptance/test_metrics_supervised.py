"""One endpoint for all processes of a supervisor: exact when one is killed, and right when one hangs or Redis does."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from observed import Observed

from deltabus.embedded import EmbeddedRedis

#: Short, so that what hangs is found soon; a busy machine must not look like it.
LEASE = {"DELTABUS_LEASE": "3", "DELTABUS_HEARTBEAT_INTERVAL": "0.5"}

TASKS = 40


def processes(seen: Observed) -> set[int]:
    return {process["process"] for process in seen.get("/livez").json["processes"]}


def problems(seen: Observed, path: str) -> set[tuple[str, int | None]]:
    page = seen.get(path)
    found = {(problem["reason"], problem.get("process")) for problem in page.json["problems"]}
    assert page.status == (503 if found else 200)
    return found


def completed(seen: Observed) -> float:
    return seen.value("deltabus_tasks_ended_total", outcome="completed")


@pytest.mark.timeout(900)
def test_of_several_processes_nothing_is_lost_or_counted_twice(fresh_redis: EmbeddedRedis, tmp_path: Path) -> None:
    options = "--processes", "2", "--log-format", "console"
    with Observed(fresh_redis.url, tmp_path, *options, **LEASE) as seen:
        for job in [seen.enqueue() for _ in range(TASKS)]:
            seen.finish(job)
        assert completed(seen) == TASKS
        gaps = seen.value("deltabus_delta_gap_seconds_count")
        appends = seen.value("deltabus_append_seconds_sum")

        # One is killed: what it has counted stays, and what it was is gone, once its successor is there.
        before = processes(seen)
        killed = min(before)
        os.kill(killed, signal.SIGKILL)
        seen.until(lambda: killed not in processes(seen) and seen.get("/readyz").status == 200)
        assert completed(seen) == TASKS
        assert seen.value("deltabus_delta_gap_seconds_count") == gaps
        assert seen.value("deltabus_append_seconds_sum") == appends
        assert seen.value("deltabus_process_deaths_total") == 1
        assert seen.value("deltabus_slots") == 200
        assert seen.value("deltabus_processes", state="working") == 2
        for job in [seen.enqueue() for _ in range(TASKS)]:
            seen.finish(job)
        assert completed(seen) == 2 * TASKS

        # One is frozen: it cannot say so, but it is seen.
        frozen = min(processes(seen))
        os.kill(frozen, signal.SIGSTOP)
        try:
            seen.until(lambda: ("loop_blocked", frozen) in problems(seen, "/livez"))
            assert ("loop_blocked", frozen) in problems(seen, "/healthz")
            assert seen.value("deltabus_stuck", reason="loop_blocked") >= 1
        finally:
            os.kill(frozen, signal.SIGCONT)
        seen.until(lambda: not problems(seen, "/healthz"))
        seen.until(lambda: seen.value("deltabus_stalls_total", reason="loop_blocked") >= 1)
        seen.worker.wait_for("the worker is stuck: its event loop does not run")
        seen.worker.wait_for("not stuck any more")

        # Redis hangs: that is no reason to restart anything.
        server = int(seen.redis.info()["process_id"])
        os.kill(server, signal.SIGSTOP)
        try:
            seen.until(lambda: ("redis", None) in problems(seen, "/healthz"))
            assert seen.value("deltabus_redis_up") == 0
            assert completed(seen) == 2 * TASKS
            seen.until(lambda: not problems(seen, "/livez"))
        finally:
            os.kill(server, signal.SIGCONT)
        seen.until(lambda: not problems(seen, "/readyz"))
        assert seen.value("deltabus_redis_up") == 1
        assert seen.value("deltabus_redis_outages_total") >= 1
        seen.finish(seen.enqueue())
        # Lines for people, of all processes, though nobody looks at a terminal.
        assert '"message"' not in seen.worker.said
