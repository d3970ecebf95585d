"""What can be seen of a real worker that has run tasks of every outcome: metrics, health, its log."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from observed import ANSWER, KEY, PROMPT, Observed
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from redis import Redis

from deltabus.embedded import EmbeddedRedis
from deltabus.monitoring.catalogue import METRICS


@pytest.fixture(scope="module")
def seen(redis_server: EmbeddedRedis, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    with Redis.from_url(redis_server.url) as client:
        client.flushall()
    folder = tmp_path_factory.mktemp("observed")
    with Observed(redis_server.url, folder, DELTABUS_RETRY_DELAY="0.01", DELTABUS_MAX_RETRIES="1") as observed:
        observed.run_every_kind()
        yield observed


def test_every_metric_of_the_catalogue_is_shown_and_no_other(seen):
    families = {family.name: family for family in openmetrics(seen.get("/metrics", Accept=OPENMETRICS).body)}
    assert set(families) == {metric.name.removesuffix("_total") for metric in METRICS}
    for metric in METRICS:
        family = families[metric.name.removesuffix("_total")]
        assert family.type == metric.kind
        labels = {name for sample in family.samples for name in sample.labels} - {"le"}
        assert labels <= set(metric.labels), metric.name


OPENMETRICS = "application/openmetrics-text; version=1.0.0"


def test_a_scraper_gets_the_form_that_it_asks_for(seen):
    assert seen.get("/metrics").type.startswith("text/plain; version=")
    assert seen.get("/metrics", Accept=OPENMETRICS).type.startswith("application/openmetrics-text")


def test_tasks_are_counted_by_their_endings(seen):
    def ended(outcome: str, code: str) -> float:
        return seen.value("deltabus_tasks_ended_total", queue="chat", outcome=outcome, code=code)

    assert ended("completed", "") == 7
    assert ended("failed", "invalid_request") == 3
    assert ended("failed", "authentication") == 1
    assert ended("failed", "stream_truncated") == 1
    assert ended("failed", "internal") == 1
    assert ended("failed", "unknown_task") == 1
    assert seen.value("deltabus_tasks_ended_total") == 14
    assert seen.value("deltabus_tasks_taken_total") == 14
    started = seen.value("deltabus_attempts_started_total")
    assert started == seen.value("deltabus_attempts_ended_total")
    assert seen.value("deltabus_retries_total", provider="main", code="rate_limited") == 1


def test_what_a_provider_did_is_counted(seen):
    for status, count in {"400": 1, "401": 1, "429": 1}.items():
        assert seen.value("deltabus_provider_responses_total", provider="main", status=status) == count
    assert seen.value("deltabus_provider_responses_total", status="200") >= 7
    acme = {"provider": "main", "model": "m-1", "tenant": "acme"}
    assert seen.value("deltabus_tokens_total", kind="prompt", **acme) == 35
    assert seen.value("deltabus_tokens_total", kind="completion", **acme) == 15
    assert seen.value("deltabus_cached_tokens_total", **acme) == 10
    assert seen.value("deltabus_reasoning_tokens_total", **acme) == 5
    assert seen.value("deltabus_time_to_first_token_seconds_count", provider="main", model="m-1") == 6
    assert seen.value("deltabus_delta_gap_seconds_count", provider="main", model="m-1") == 18
    assert seen.value("deltabus_append_seconds_count") > 14


def test_what_a_process_takes_is_measured(seen):
    seen.until(lambda: seen.value("deltabus_memory_bytes") > 10_000_000)
    seen.until(lambda: seen.value("deltabus_cpu_seconds_total") > 0.1)
    seen.until(lambda: seen.value("deltabus_loop_lag_seconds_count") > 0)


def test_what_waits_is_asked_when_somebody_wants_to_know(seen):
    assert seen.value("deltabus_queue_depth", queue="chat") == 0
    assert seen.value("deltabus_queue_oldest_seconds", queue="chat") == 0
    assert seen.value("deltabus_queue_jobs", queue="chat", state="failed") == 7
    seen.redis.set("rq:suspended", "1")
    try:
        # A wait that is under way may take one job still, and gives it back.
        seen.enqueue()
        seen.enqueue()
        seen.until(lambda: seen.value("deltabus_queue_depth", queue="chat") == 2)
        seen.until(lambda: seen.value("deltabus_queue_oldest_seconds", queue="chat") > 0)
        seen.until(lambda: seen.value("deltabus_processes", state="suspended") == 1)
        assert seen.get("/readyz").status == 200
    finally:
        seen.redis.delete("rq:suspended")
    seen.until(lambda: seen.value("deltabus_queue_depth", queue="chat") == 0)


def test_a_worker_that_works_is_live_well_and_ready(seen):
    for path in ("/livez", "/healthz", "/readyz"):
        page = seen.get(path)
        assert (page.status, page.type) == (200, "application/json")
        assert page.json["status"] == "ok"
        assert page.json["problems"] == []
        (process,) = page.json["processes"]
        assert process["process"] == seen.worker.process.pid
        assert process["slots"]["total"] == 100


def test_other_pages_and_methods_are_refused(seen):
    page = seen.get("/")
    assert page.status == 404
    assert "/readyz" in page.json["error"]
    assert seen.get("/healthz", "HEAD") == (200, "application/json", "")
    assert seen.get("/healthz", "POST").status == 501


def test_no_line_of_the_log_holds_a_prompt_an_answer_or_a_key_and_each_is_json(seen):
    said = seen.worker.said
    lines = [json.loads(line) for line in said.splitlines()]
    for marker in (PROMPT, ANSWER, KEY):
        assert marker not in said
    for line in lines:
        assert {"timestamp", "level", "logger", "message"} <= line.keys()
    finished = [line for line in lines if line["message"] == "task finished"]
    assert len(finished) >= 14
    (busy,) = [line for line in lines if line["message"] == "attempt failed" and line["code"] == "rate_limited"]
    assert (busy["provider"], busy["model"], busy["status"]) == ("main", "m-1", 429)
    first = next(line for line in finished if line["outcome"] == "completed" and line.get("tenant"))
    assert first.keys() >= {"task", "attempt", "queue", "provider", "model", "seconds", "first_delta", "deltas"}
    assert first["tokens"] == {"prompt": 7, "completion": 3}
    bug = next(line for line in lines if "exception" in line)
    assert bug["task"]
    assert "RuntimeError" in bug["exception"]
