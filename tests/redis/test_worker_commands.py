"""What others ask of a running worker, in RQ's words and in ours: stop, cancel, delete, shut down."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from rq.command import (
    send_kill_horse_command,
    send_shutdown_command,
    send_stop_execution_command,
    send_stop_job_command,
)
from rq.exceptions import NoSuchJobError
from rq.job import JobStatus
from rq.registry import CanceledJobRegistry
from rq.results import Result

from deltabus import keys
from deltabus.events import Cancelled, Completed, Failed
from deltabus.worker import vigil

#: Would stream for minutes.
LONG = {"words": 10_000, "interval": 0.02}

#: Streams one word, then nothing.
SILENT = {"words": 10_000, "stall_after": 1}

#: Streams one word, and the others once its `gate` is open.
HELD = {"words": 3, "stall_after": 1}


@pytest.fixture
def quick(site):
    """Settings of a worker whose heart beats fast."""
    return site.settings(heartbeat_interval=0.1)


@pytest.mark.parametrize("script", [LONG, SILENT], ids=["streaming", "silent"])
def test_the_stop_command_ends_one_job_and_leaves_the_others(site, script):
    with site.worker() as worker:
        site.until(lambda: site.is_listening(worker))
        stopped, other = site.enqueue(script=script), site.enqueue(script=LONG)
        site.streams(stopped.id)
        site.streams(other.id)
        send_stop_job_command(site.redis, stopped.id, serializer="json")
        assert isinstance(site.ending(stopped.id), Cancelled)
        assert site.booked(stopped).type is Result.Type.FAILED
        assert site.fetch(stopped).get_status() is JobStatus.STOPPED
        assert site.fetch(stopped).ended_at > site.fetch(stopped).started_at
        assert stopped.id in site.queue().failed_job_registry
        assert site.fetch(other).get_status() is JobStatus.STARTED
        assert site.queue().started_job_registry.get_job_ids() == [other.id]


def test_the_stop_command_for_an_execution_ends_that_and_no_other(site):
    with site.worker() as worker:
        site.until(lambda: site.is_listening(worker))
        stopped, other = site.enqueue(script=LONG), site.enqueue(script=LONG)
        site.streams(stopped.id)
        site.streams(other.id)
        (execution,) = site.fetch(stopped).get_executions()
        (others,) = site.fetch(other).get_executions()
        assert {run.id for run in worker.get_current_executions()} == {execution.id, others.id}
        with pytest.raises(Exception, match="not running"):
            send_stop_execution_command(site.redis, stopped.id, "nonsense")
        send_stop_execution_command(site.redis, stopped.id, execution.id)
        assert isinstance(site.ending(stopped.id), Cancelled)
        assert site.booked(stopped)
        assert site.fetch(other).get_status() is JobStatus.STARTED


def test_commands_that_mean_nothing_here_are_ignored(site, gate, capfd):
    with site.worker() as worker:
        job = site.enqueue(script=HELD)
        site.streams(job.id)
        send_kill_horse_command(site.redis, worker.name)
        commands = (b"[]", b"{}", b'{"command": ["stop-job"]}', b'{"command": "stop-job"}')
        # What msgspec raises errors at that are not its own.
        broken = (b"\xff", b'{"command": "\xff"}', b'{"command": ' + b"[" * 100_000)
        for nonsense in (*broken, *commands):
            site.redis.publish(worker.pubsub_channel_name, nonsense)
        site.redis.publish(keys.CANCEL_CHANNEL, b"\xff")
        gate.set()
        assert isinstance(site.ending(job.id), Completed)
        assert site.booked(job)
    assert "a duty of the worker failed" not in "".join(capfd.readouterr())


def test_the_shutdown_command_lets_running_jobs_finish_and_takes_no_more(site, gate):
    settings = site.settings(concurrency=2, drain_timeout=20.0)
    with site.worker(settings=settings) as worker:
        running, stopped = site.enqueue(script=HELD), site.enqueue(script=SILENT)
        for job in (running, stopped):
            site.streams(job.id)
        waiting = site.enqueue()
        send_shutdown_command(site.redis, worker.name)
        # Commands are obeyed in their order: when this one has been, so has the other.
        send_stop_job_command(site.redis, stopped.id, serializer="json")
        assert isinstance(site.ending(stopped.id), Cancelled)
        gate.set()
        assert isinstance(site.ending(running.id), Completed)
        assert site.booked(running)
        site.until(lambda: site.redis.hexists(worker.key, "death"))
    assert site.queue().get_job_ids() == [waiting.id]
    assert site.leftovers() == {"rq:queue:chat"}


def test_a_worker_that_may_not_wait_hands_back_what_it_runs(site):
    with site.worker():
        first, second = site.enqueue(script=LONG), site.enqueue(script=SILENT)
        site.streams(first.id)
        site.streams(second.id)
    assert sorted(site.queue().get_job_ids()) == sorted([first.id, second.id])
    for job in (first, second):
        handed = site.fetch(job)
        assert handed.get_status() is JobStatus.QUEUED
        assert handed.started_at is None
        assert not handed.worker_name
        assert site.types(job.id)[-1] == "retrying"
    assert site.leftovers() == {"rq:queue:chat"}


def test_a_job_that_was_cancelled_while_it_waited_is_not_run(site):
    job, other = site.enqueue(), site.enqueue()
    site.fetch(job).cancel()
    site.work()
    assert isinstance(site.ending(other.id), Completed)
    assert site.log(job.id) == []
    assert site.fetch(job).get_status() is JobStatus.CANCELED
    assert job.id in CanceledJobRegistry(queue=site.queue())


def test_a_job_that_was_cancelled_in_the_moment_it_was_taken_is_settled_and_not_run(site):
    job = site.enqueue()
    site.fetch(job).cancel()
    site.redis.rpush("rq:queue:chat", job.id)  # as if the worker had been a little faster
    site.work()
    assert isinstance(site.ending(job.id), Cancelled)
    assert site.types(job.id) == ["cancelled"]
    assert site.fetch(job).get_status() is JobStatus.CANCELED
    assert site.leftovers() == set()


@pytest.mark.parametrize("script", [LONG, SILENT], ids=["streaming", "silent"])
def test_a_running_job_that_is_cancelled_through_rq_ends_at_the_next_heartbeat(site, quick, script):
    with site.worker(settings=quick):
        job = site.enqueue(script=script)
        site.streams(job.id)
        site.fetch(job).cancel()
        assert isinstance(site.ending(job.id), Cancelled)
    assert site.fetch(job).get_status() is JobStatus.CANCELED
    assert site.fetch(job).ended_at
    assert job.id in CanceledJobRegistry(queue=site.queue())
    assert site.redis.ttl(job.key) > 0
    assert site.leftovers() == set()


def test_a_job_that_was_deleted_while_it_waited_leaves_nothing(site):
    job, other = site.enqueue(), site.enqueue()
    site.fetch(job).delete()
    site.work()
    assert isinstance(site.ending(other.id), Completed)
    assert not site.redis.exists(job.key, keys.log(job.id))


def test_a_running_job_that_is_deleted_ends_at_the_next_heartbeat_and_does_not_come_back(site, quick, monkeypatch):
    monkeypatch.setattr(vigil, "RQ_LEASE_INTERVAL", 0.0)
    with site.worker(settings=quick):
        job = site.enqueue(script=LONG)
        site.streams(job.id)
        site.fetch(job).delete()
        assert isinstance(site.ending(job.id), Cancelled)
    with pytest.raises(NoSuchJobError):
        site.fetch(job)
    assert not site.redis.exists(job.key, f"rq:results:{job.id}")
    assert site.leftovers() == set()


@pytest.mark.parametrize("script", [LONG, SILENT], ids=["streaming", "silent"])
def test_a_cancel_key_ends_a_running_job_even_if_its_announcement_was_lost(site, quick, script):
    with site.worker(settings=quick):
        job = site.enqueue(script=script)
        site.streams(job.id)
        site.redis.set(keys.cancel(job.id), "enough")
        assert site.ending(job.id).reason == "enough"
    assert site.fetch(job).get_status() is JobStatus.CANCELED
    assert site.leftovers() == set()


def test_a_cancel_key_ends_a_silent_job_under_rqs_own_worker_too(site, monkeypatch):
    monkeypatch.setenv("DELTABUS_HEARTBEAT_INTERVAL", "0.1")
    job = site.enqueue(script=SILENT)

    def cancel() -> None:
        site.streams(job.id)
        site.redis.set(keys.cancel(job.id), "enough")

    with ThreadPoolExecutor() as thread:
        cancelling = thread.submit(cancel)
        site.work_simply()
        cancelling.result()
    assert site.ending(job.id).reason == "enough"
    assert site.leftovers() == set()


def test_an_announced_cancel_ends_a_silent_job_at_once(site):
    # No heartbeat comes in time to see the key.
    with site.worker(settings=site.settings(heartbeat_interval=50.0, lease=100.0)):
        job = site.enqueue(script=SILENT)
        site.streams(job.id)
        site.redis.set(keys.cancel(job.id), "")
        site.redis.publish(keys.CANCEL_CHANNEL, job.id)
        assert site.ending(job.id).reason is None
    assert site.fetch(job).get_status() is JobStatus.CANCELED


def test_a_cancel_key_that_is_there_before_the_job_starts_settles_it(site):
    job = site.enqueue(script=LONG)
    site.redis.set(keys.cancel(job.id), "never mind")
    site.work()
    assert site.types(job.id) == ["cancelled"]
    assert site.ending(job.id).reason == "never mind"
    assert site.fetch(job).get_status() is JobStatus.CANCELED
    assert site.leftovers() == set()


def test_a_job_whose_time_is_over_fails(site):
    job = site.enqueue(script=SILENT, job_timeout=1)
    site.work()
    failed = site.ending(job.id)
    assert isinstance(failed, Failed)
    assert failed.error.code == "deadline_exceeded"
    assert bool(failed.partial) is ("delta" in site.types(job.id))
    assert site.fetch(job).get_status() is JobStatus.FAILED


def test_a_job_whose_time_is_over_fails_alike_under_rqs_own_worker(site):
    job = site.enqueue(script=SILENT, job_timeout=1)
    site.work_simply()
    failed = site.ending(job.id)
    assert isinstance(failed, Failed)
    assert failed.error.code == "deadline_exceeded"
    assert site.fetch(job).get_status() is JobStatus.FAILED


def test_a_job_that_expired_in_its_queue_is_settled_as_failed(site):
    job = site.enqueue(ttl=1000)
    site.redis.expire(job.key, 0)
    site.work()
    failed = site.ending(job.id)
    assert isinstance(failed, Failed)
    assert failed.error.code == "invalid_request"
    assert "expired" in failed.error.message
    assert site.fetch(job).get_status() is JobStatus.FAILED
