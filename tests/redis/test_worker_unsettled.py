"""Jobs whose end cannot be written where it belongs: they end all the same, and the worker goes on."""

from __future__ import annotations

import pytest

from deltabus import keys
from deltabus.jobs import FAILURES_FIELD, LOST_FIELD


def test_a_task_whose_log_cannot_be_written_fails_in_rq_and_hurts_nobody_else(site) -> None:
    bad = site.enqueue()
    good = site.enqueue()
    site.redis.set(keys.log(bad.id), "not a stream")
    site.work()
    assert site.ending(good.id).result
    assert site.booked(bad).type.name == "FAILED"
    assert site.fetch(bad).get_status() == "failed"
    assert not site.leftovers()


@pytest.mark.parametrize("field", [LOST_FIELD, FAILURES_FIELD])
def test_a_count_of_ours_that_is_not_a_number_is_a_broken_field(site, field) -> None:
    job = site.enqueue()
    site.redis.hset(job.key, field, "many")
    site.work()
    assert field in site.ending(job.id).error.message
    assert site.fetch(job).get_status() == "failed"


def test_a_payload_nested_too_deep_is_one_clear_error(site) -> None:
    job = site.enqueue()
    site.redis.hset(job.key, "data", b"[" * 100_000)
    site.work()
    assert site.ending(job.id).error.code == "invalid_request"


def test_a_task_that_was_failed_as_lost_may_be_requeued(site) -> None:
    job = site.enqueue()
    site.redis.hset(job.key, LOST_FIELD, 99)
    site.work()
    assert site.ending(job.id).error.code == "worker_lost"
    site.fetch(job).requeue()
    site.work()
    assert site.log(job.id)[-1].result
