"""What hangs on a job besides its result: dependents, groups, callbacks, webhooks, exception handlers."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from rq import Callback
from rq.command import send_stop_job_command
from rq.group import Group
from rq.job import Dependency, JobStatus
from rq.queue import Queue
from rq.webhook import Webhook

from deltabus.events import Cancelled, Completed, Failed
from deltabus.worker import AsyncWorker

FAILS = {"error": "not_found"}

#: What the callbacks of `hooks` say, they push to this list.
CALLS = "calls"

HOOKS = f"""
def on_success(job, connection, result):
    connection.rpush("{CALLS}", "success " + result["object"])

def on_failure(job, connection, kind, error, traceback):
    connection.rpush("{CALLS}", "failure " + str(error))

def on_stopped(job, connection):
    connection.rpush("{CALLS}", "stopped " + job.id)

def raises(job, connection, *_):
    connection.rpush("{CALLS}", "raises")
    raise RuntimeError("the callback is broken")

def takes_long(job, connection, *_):
    while True:
        connection.ping()

async def coroutine(job, connection, *_):
    connection.rpush("{CALLS}", "coroutine")
"""


@pytest.fixture
def hooks(install):
    """Callbacks, registered as a package registers them."""
    names = ["on_success", "on_failure", "on_stopped", "raises", "takes_long", "coroutine"]
    install("hooks", HOOKS, callbacks={name: f"hooks:{name}" for name in names})


def calls(site):
    return [call.decode() for call in site.redis.lrange(CALLS, 0, -1)]


# Dependents


def test_a_dependent_runs_after_the_job_it_depends_on(site):
    first = site.enqueue()
    second = site.enqueue(depends_on=first)
    third = site.enqueue(depends_on=[first, second])
    assert second.get_status() is JobStatus.DEFERRED
    site.work()
    endings = [site.ending(job.id) for job in (first, second, third)]
    assert [type(ending) for ending in endings] == [Completed] * 3
    assert [ending.at for ending in endings] == sorted(ending.at for ending in endings)
    assert {site.fetch(job).get_status() for job in (first, second, third)} == {JobStatus.FINISHED}
    assert site.leftovers() == set()
    assert site.queue().deferred_job_registry.count == site.queue().ready_job_registry.count == 0


def test_a_dependent_may_be_in_another_queue(site):
    first = site.enqueue("chat")
    second = site.enqueue("file", depends_on=first)
    site.work("chat")
    assert site.queue("file").get_job_ids() == [second.id]
    site.work("file")
    assert isinstance(site.ending(second.id), Completed)


def test_a_dependent_of_a_failed_job_waits_unless_it_allows_failure(site):
    first = site.enqueue(script=FAILS)
    strict = site.enqueue(depends_on=first)
    lenient = site.enqueue(depends_on=Dependency(first, allow_failure=True))
    site.work()
    assert isinstance(site.ending(lenient.id), Completed)
    assert site.log(strict.id) == []
    assert site.fetch(strict).get_status() is JobStatus.DEFERRED


def test_a_dependent_that_came_while_the_job_ran_is_not_forgotten(site, gate):
    with site.worker():
        first = site.enqueue(script={"words": 3, "stall_after": 1})
        site.streams(first.id)
        second = site.enqueue(depends_on=first)
        gate.set()
        assert isinstance(site.ending(second.id), Completed)


def test_a_dependent_of_bad_input_that_allows_failure_runs(site):
    first = site.queue().enqueue("os.system", "true")
    second = site.enqueue(depends_on=Dependency(first, allow_failure=True))
    site.work()
    assert isinstance(site.ending(first.id), Failed)
    assert isinstance(site.ending(second.id), Completed)


def test_the_jobs_of_a_group_run_and_the_group_knows_them(site):
    group = Group.create(connection=site.redis)
    data = [Queue.prepare_data("deltabus.tasks.chat", (site.request(),), job_id=name) for name in ("a", "b", "c")]
    group.enqueue_many(site.queue(), data)
    site.work()
    assert [type(site.ending(name)) for name in ("a", "b", "c")] == [Completed] * 3
    members = {key.decode() for key in site.redis.smembers(group.key)}
    assert members == {"a", "b", "c"}
    assert {site.fetch(name).group_id for name in members} == {group.name}


# Callbacks


def test_registered_callbacks_are_called(site, hooks):
    finished = site.enqueue(on_success=Callback("hooks.on_success"), on_failure=Callback("hooks.on_failure"))
    site.work()
    assert calls(site) == ["success chat.completion"]
    assert site.fetch(finished).get_status() is JobStatus.FINISHED
    site.redis.delete(CALLS)

    failed = site.enqueue(
        script=FAILS, on_success=Callback("hooks.on_success"), on_failure=Callback("hooks.on_failure")
    )
    site.work()
    assert calls(site) == [f"failure task {failed.id} failed: not_found: failed, as the script asks"]
    assert site.fetch(failed).get_status() is JobStatus.FAILED
    assert site.leftovers() == set()


def test_a_stopped_callback_is_called_when_the_job_is_stopped(site, hooks):
    with site.worker() as worker:
        site.until(lambda: site.is_listening(worker))
        job = site.enqueue(script={"words": 10_000, "interval": 0.02}, on_stopped=Callback("hooks.on_stopped"))
        site.streams(job.id)
        send_stop_job_command(site.redis, job.id, serializer="json")
        assert isinstance(site.ending(job.id), Cancelled)
        assert site.booked(job)
    assert calls(site) == [f"stopped {job.id}"]
    assert site.fetch(job).get_status() is JobStatus.STOPPED


def test_a_stopped_callback_that_raises_changes_nothing(site, hooks):
    with site.worker() as worker:
        site.until(lambda: site.is_listening(worker))
        job = site.enqueue(script={"words": 10_000, "interval": 0.02}, on_stopped=Callback("hooks.raises"))
        site.streams(job.id)
        send_stop_job_command(site.redis, job.id, serializer="json")
        assert site.booked(job)
    assert calls(site) == ["raises"]
    assert site.fetch(job).get_status() is JobStatus.STOPPED


@pytest.mark.parametrize("name", ["raises", "coroutine"])
def test_a_success_callback_that_fails_fails_the_job_for_rq_but_not_its_log(site, hooks, name):
    job, other = site.enqueue(on_success=Callback(f"hooks.{name}")), site.enqueue()
    site.work()
    assert isinstance(site.ending(job.id), Completed)
    assert site.fetch(job).get_status() is JobStatus.FAILED
    expected = "the callback is broken" if name == "raises" else "Coroutine success callbacks are not supported"
    assert expected in site.fetch(job).latest_result().exc_string
    assert isinstance(site.ending(other.id), Completed)
    assert site.leftovers() == set()


def test_a_failure_callback_that_raises_replaces_the_recorded_failure_as_in_rq(site, hooks):
    job = site.enqueue(script=FAILS, on_failure=Callback("hooks.raises"))
    site.work()
    assert site.ending(job.id).error.code == "not_found"
    assert "the callback is broken" in site.fetch(job).latest_result().exc_string
    assert site.fetch(job).get_status() is JobStatus.FAILED


def test_a_callback_that_takes_too_long_is_ended(site, hooks):
    job = site.enqueue(on_success=Callback("hooks.takes_long", timeout=1))
    site.work()
    assert isinstance(site.ending(job.id), Completed)
    assert site.fetch(job).get_status() is JobStatus.FAILED
    assert "exceeded maximum timeout value (1 seconds)" in site.fetch(job).latest_result().exc_string


@pytest.mark.parametrize("moment", ["on_success", "on_failure", "on_stopped"])
def test_a_callback_that_is_not_registered_fails_the_job_and_is_never_imported(site, install, tmp_path, moment):
    trace = tmp_path / "imported"
    install("trap", f"open({str(trace)!r}, 'w').close()\ndef spring(*_): pass\n")
    job = site.enqueue(**{moment: Callback("trap.spring")})
    site.work()
    failed = site.ending(job.id)
    assert isinstance(failed, Failed)
    assert (failed.error.code, failed.error.param) == ("unknown_task", "callback")
    assert "`trap.spring` is not registered" in failed.error.message
    assert site.fetch(job).get_status() is JobStatus.FAILED
    assert "trap.spring" in site.fetch(job).latest_result().exc_string
    assert not trace.exists()


# Webhooks


@pytest.fixture
def listener():
    """A local server that keeps what is posted to it."""
    posted = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            posted.append((self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", posted
        server.shutdown()
        thread.join()


def test_webhooks_to_allowed_hosts_are_called(site, listener):
    url, posted = listener
    webhooks = [Webhook(f"{url}/{status}", status, method="POST") for status in ("finished", "failed")]
    finished, failed = site.enqueue(webhooks=webhooks), site.enqueue(script=FAILS, webhooks=webhooks)
    site.work(settings=site.settings(webhook_hosts=("127.0.0.1",)))
    assert {path for path, _ in posted} == {"/finished", "/failed"}
    bodies = dict(posted)
    assert bodies["/finished"]["job_id"] == finished.id
    assert bodies["/failed"]["job_id"] == failed.id
    assert "not_found" in bodies["/failed"]["exc_info"]
    assert site.fetch(finished).get_status() is JobStatus.FINISHED


@pytest.mark.parametrize("status", ["finished", "failed"])
def test_a_webhook_to_a_host_that_is_not_allowed_fails_the_job_and_is_not_called(site, listener, status):
    url, posted = listener
    job = site.enqueue(webhooks=[Webhook(f"{url}/", status, method="POST")])
    site.work(settings=site.settings(webhook_hosts=("hooks.example",)))
    failed = site.ending(job.id)
    assert (failed.error.code, failed.error.param) == ("unknown_task", "webhooks")
    assert "`127.0.0.1` is not allowed" in failed.error.message
    assert site.fetch(job).get_status() is JobStatus.FAILED
    assert posted == []


def test_a_webhook_that_cannot_be_reached_changes_nothing(site, listener):
    url = "http://127.0.0.1:1/"
    job = site.enqueue(webhooks=[Webhook(url, "finished")])
    site.work(settings=site.settings(webhook_hosts=("127.0.0.1",)))
    assert site.fetch(job).get_status() is JobStatus.FINISHED
    assert isinstance(site.ending(job.id), Completed)


# Exception handlers


def test_exception_handlers_see_every_failure(site):
    seen = []
    job = site.enqueue(script=FAILS)
    bad = site.queue().enqueue("os.system", "true")
    worker = site.make(exception_handlers=[lambda job, *exc_info: seen.append((job.id, str(exc_info[1])))])
    worker.work(burst=True)
    assert sorted(seen) == sorted(
        [
            (job.id, f"task {job.id} failed: not_found: failed, as the script asks"),
            (bad.id, f"task {bad.id} failed: unknown_task: {site.ending(bad.id).error.message}"),
        ]
    )
    assert site.fetch(job).get_status() is JobStatus.FAILED


def test_without_the_default_exception_handler_failures_are_not_kept(site):
    job = site.enqueue(script=FAILS)
    site.make(disable_default_exception_handler=True).work(burst=True)
    assert isinstance(site.ending(job.id), Failed)
    assert site.fetch(job).get_status() is JobStatus.FAILED
    assert site.queue().failed_job_registry.count == 0
    assert site.fetch(job).latest_result() is None


def test_an_exception_handler_that_raises_does_not_keep_the_failure_from_being_recorded(site, capfd):
    def broken(job, *exc_info):
        raise RuntimeError("the handler is broken")

    job, other = site.enqueue(script=FAILS), site.enqueue()
    site.make(exception_handlers=[broken]).work(burst=True)
    assert site.fetch(job).get_status() is JobStatus.FAILED
    assert "not_found" in site.fetch(job).latest_result().exc_string
    assert isinstance(site.ending(other.id), Completed)
    assert "the handler is broken" in capfd.readouterr().err


def test_an_ending_that_rq_could_not_record_is_recorded_later(site, hooks, monkeypatch):
    record, asked = AsyncWorker.handle_job_failure, []

    def record_at_second_try(*args, **options):
        asked.append(args)
        if len(asked) > 1:  # RQ logs an error of Redis, and returns
            record(*args, **options)

    monkeypatch.setattr(AsyncWorker, "handle_job_failure", record_at_second_try)
    job = site.enqueue(script=FAILS, on_failure=Callback("hooks.on_failure"))
    site.work()
    assert len(asked) == 2
    assert site.types(job.id) == ["started", "failed"]
    assert site.fetch(job).get_status() is JobStatus.FAILED
    assert job.id in site.queue().failed_job_registry
    assert site.leftovers() == set()


def test_dependents_of_many_jobs_that_end_at_once_all_run_at_once(site):
    firsts = [site.enqueue() for _ in range(40)]
    behind = [site.enqueue(depends_on=first) for first in firsts]
    site.work()
    assert [site.types(job.id)[-1:] for job in behind] == [["completed"]] * 40
