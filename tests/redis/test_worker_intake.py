"""Which jobs a worker takes, how many at once, when it leaves, and what it does while there are none."""

from __future__ import annotations

import asyncio
import os
import signal

import msgspec
import pytest
import redis.asyncio
from rq.job import JobStatus
from rq.suspension import resume, suspend
from rq.worker import Worker
from rq.worker.base import WorkerStatus

from deltabus import events, keys
from deltabus.events import Completed, Started
from deltabus.jobs import OPEN_FIELD
from deltabus.worker import intake, shift

SHORT = {"words": 3, "interval": 0.005}
LONG = {"words": 10_000, "interval": 0.02}

#: Streams one word, and the others once its `gate` is open, or in its second attempt.
HELD = {"words": 3, "stall_after": 1}
STUCK_ONCE = {**HELD, "fail_attempts": 1}


def order(site, jobs):
    """The jobs' names, in the order in which they began."""
    return [name for _, name in sorted((site.log(job.id)[0].at, name) for name, job in jobs.items())]


def most_at_once(site, jobs):
    """How many of these tasks were running at once, at the most."""
    changes = [(site.log(job.id)[0].at, 1) for job in jobs] + [(site.log(job.id)[-1].at, -1) for job in jobs]
    running = most = 0
    for _, change in sorted(changes):
        running += change
        most = max(most, running)
    return most


def test_higher_queues_are_emptied_first(site):
    jobs = {f"{queue}{n}": site.enqueue(queue) for n in range(3) for queue in ("low", "mid", "high")}
    site.work("high", "mid", "low", settings=site.settings(concurrency=1))
    assert order(site, jobs) == [f"{queue}{n}" for queue in ("high", "mid", "low") for n in range(3)]
    assert site.leftovers() == set()


@pytest.mark.parametrize("concurrency", [1, 3])
def test_a_worker_that_waits_takes_what_comes_in_the_order_of_its_queues(site, concurrency):
    with site.worker("high", "mid", "low", settings=site.settings(concurrency=concurrency)) as worker:
        site.until(lambda: site.redis.hget(worker.key, "state") == b"idle")
        # More than it can take at once: the slots are full with what came first.
        blockers = [site.enqueue("low", script={"words": 3, "stall_after": 2}) for _ in range(concurrency)]
        for blocker in blockers:
            site.streams(blocker.id)
        jobs = {f"{queue}{n}": site.enqueue(queue, script=SHORT) for n in range(3) for queue in ("low", "mid", "high")}
        site.until(lambda: site.is_listening(worker))
        for blocker in blockers:
            site.redis.set(keys.cancel(blocker.id), "")
            site.redis.publish(keys.CANCEL_CHANNEL, blocker.id)
        for job in jobs.values():
            assert isinstance(site.ending(job.id), Completed)
        assert isinstance(site.ending(site.enqueue("low").id), Completed)
    names = order(site, jobs)
    if concurrency == 1:
        assert names == [f"{queue}{n}" for queue in ("high", "mid", "low") for n in range(3)]
    assert set(names[:3]) == {"high0", "high1", "high2"}
    assert set(names[-3:]) == {"low0", "low1", "low2"}
    assert most_at_once(site, [*blockers, *jobs.values()]) == concurrency
    assert site.leftovers() == set()


@pytest.mark.parametrize("concurrency", [1, 3])
@pytest.mark.parametrize("queue", ["high", "mid", "low"])
def test_a_worker_that_waits_wakes_for_each_of_its_queues(site, concurrency, queue):
    with site.worker("high", "mid", "low", settings=site.settings(concurrency=concurrency)) as worker:
        site.until(lambda: site.redis.hget(worker.key, "state") == b"idle")
        jobs = [site.enqueue(queue) for _ in range(5)]
        for job in jobs:
            assert isinstance(site.ending(job.id), Completed)
    assert most_at_once(site, jobs) <= concurrency


def test_many_jobs_run_at_once_in_one_process(site, gate):
    jobs = [site.enqueue(script=HELD) for _ in range(30)]
    with site.worker(settings=site.settings(concurrency=30)):
        for job in jobs:
            site.streams(job.id)
        gate.set()
        for job in jobs:
            assert isinstance(site.ending(job.id), Completed)
    assert most_at_once(site, jobs) == 30


def test_workers_share_their_queues_and_no_job_runs_twice(site):
    settings = site.settings(concurrency=5)
    with site.worker("a", "b", settings=settings) as one, site.worker("b", "a", settings=settings) as other:
        for worker in (one, other):  # else one might be done before the other is there
            site.until(lambda: site.redis.hget(worker.key, "state") == b"idle")  # noqa: B023 # in this turn
        while site.redis.info("clients")["blocked_clients"] < 4:
            pass
        jobs = [site.enqueue(queue, script=SHORT) for queue in "abba" * 10]
        for job in jobs:
            assert isinstance(site.ending(job.id), Completed)
    assert {site.log(job.id)[0].attempt for job in jobs} == {1}
    assert {site.types(job.id).count("started") for job in jobs} == {1}
    assert len({site.fetch(job).worker_name for job in jobs}) == 2
    assert site.leftovers() == set()


def test_the_jobs_of_a_burst_may_enqueue_others_behind_them(site):
    first = site.enqueue(script=SHORT)
    chain = [first]
    for _ in range(4):
        chain.append(site.enqueue(depends_on=chain[-1], script=SHORT))
    assert site.work()
    assert [type(site.ending(job.id)) for job in chain] == [Completed] * 5


def test_work_says_whether_there_was_any(site):
    assert site.work() is False
    site.enqueue()
    assert site.work() is True


def test_max_jobs_is_how_many_it_takes(site):
    jobs = [site.enqueue() for _ in range(5)]
    site.work(burst=False, max_jobs=3)
    assert site.queue().get_job_ids() == [job.id for job in jobs[3:]]
    for job in jobs[:3]:
        assert isinstance(site.ending(job.id), Completed)
    assert site.leftovers() == {"rq:queue:chat"}


def test_max_idle_time_is_how_long_it_waits(site):
    job = site.enqueue(script={"words": 20, "interval": 0.01})
    assert site.work(burst=False, max_idle_time=0.1)
    assert isinstance(site.ending(job.id), Completed)


@pytest.mark.parametrize("concurrency", [1, 4])
def test_round_robin_takes_from_each_queue_in_turn(site, concurrency):
    jobs = {f"{queue}{n}": site.enqueue(queue, script=SHORT) for queue in ("a", "b", "c") for n in range(2)}
    settings = site.settings(concurrency=concurrency)
    site.work("a", "b", "c", settings=settings, dequeue_strategy="round_robin")
    assert order(site, jobs) == ["a0", "b0", "c0", "a1", "b1", "c1"]


def test_the_random_strategy_takes_everything(site):
    jobs = [site.enqueue(queue) for queue in ("a", "b", "c") for _ in range(3)]
    site.work("a", "b", "c", dequeue_strategy="random")
    assert [type(site.ending(job.id)) for job in jobs] == [Completed] * 9


def test_a_suspended_worker_takes_nothing_until_it_is_resumed(site):
    with site.worker("chat", "file", settings=site.settings(heartbeat_interval=0.1)) as worker:
        site.until(lambda: site.redis.hget(worker.key, "state") == b"idle")
        suspend(site.redis)
        jobs = [site.enqueue("file"), site.enqueue("chat"), site.enqueue("chat")]
        site.until(lambda: site.redis.hget(worker.key, "state") == b"suspended")
        assert site.redis.lrange("rq:queue:chat", 0, -1) == [job.id.encode() for job in jobs[1:]]
        assert site.redis.lrange("rq:queue:file", 0, -1) == [jobs[0].id.encode()]
        assert not any(site.log(job.id) for job in jobs)
        resume(site.redis)
        for job in jobs:
            assert isinstance(site.ending(job.id), Completed)
        site.until(lambda: site.redis.hget(worker.key, "state") == b"idle")


def test_a_worker_is_said_to_be_idle_a_heartbeat_after_its_last_job(site, monkeypatch):
    """And not when its next wait for jobs is over, or a lease later."""
    for module in (intake, shift):
        monkeypatch.setattr(module, "BLOCK", 600.0)
    with site.worker(settings=site.settings(heartbeat_interval=0.1, lease=3600.0)) as worker:
        assert isinstance(site.ending(site.enqueue().id), Completed)
        site.until(lambda: site.redis.hget(worker.key, "state") == b"idle")


def test_a_suspended_burst_leaves_at_once(site):
    job = site.enqueue()
    suspend(site.redis)
    assert site.work() is False
    assert site.queue().get_job_ids() == [job.id]


def test_rq_sees_the_worker_and_what_it_runs(site):
    with site.worker("chat", "file", settings=site.settings(heartbeat_interval=0.1)) as worker:
        site.until(lambda: site.redis.hget(worker.key, "state") == b"idle")
        job, other = site.enqueue("file", script=LONG), site.enqueue(script=LONG)
        site.streams(job.id)
        site.streams(other.id)
        site.until(lambda: site.redis.hget(worker.key, "state") == b"busy")
        (seen,) = Worker.all(connection=site.redis, serializer="json")
        assert seen.name == worker.name
        assert seen.pid == os.getpid()
        assert seen.queue_names() == ["chat", "file"]
        assert seen.get_state() == WorkerStatus.BUSY
        assert {run.job_id for run in seen.get_current_executions()} == {job.id, other.id}
        assert seen.get_current_job().id in {job.id, other.id}
        assert site.queue("file").started_job_registry.get_job_ids() == [job.id]
        assert site.fetch(job).worker_name == worker.name
        info = site.rq("info", "--raw")
        assert f"worker {worker.name} " in info
        assert " busy chat, file. jobs: 0 finished, 0 failed" in info
        assert "queue file 0, 1 executing, 0 finished, 0 failed" in info
        # The same through our class, as `rq info -w deltabus.worker.AsyncWorker` does it.
        assert site.rq("info", "--raw", "--worker-class", "deltabus.worker.AsyncWorker") == info
        for task in (job, other):
            site.fetch(task).cancel()
        site.until(lambda: site.redis.hget(worker.key, "state") == b"idle")
    assert Worker.all(connection=site.redis) == []
    assert site.redis.hexists(worker.key, "death")


def test_a_worker_that_redis_has_forgotten_comes_back(site):
    with site.worker(settings=site.settings(heartbeat_interval=0.1, lease=2.0)) as worker:
        site.until(lambda: site.redis.hget(worker.key, "state") == b"idle")
        site.redis.delete(worker.key, "rq:workers", "rq:workers:chat")
        site.until(lambda: site.redis.hget(worker.key, "state") == b"idle")
        site.until(lambda: [seen.name for seen in Worker.all(connection=site.redis)] == [worker.name])
        assert site.redis.ttl(worker.key) > 0


def test_a_worker_without_work_asks_redis_for_nothing(site, monkeypatch):
    for module in (intake, shift):
        monkeypatch.setattr(module, "BLOCK", 600.0)  # no wait is over before the look
    with site.worker("high", "low", settings=site.settings(lease=1.0, heartbeat_interval=0.2)) as worker:
        site.until(lambda: site.redis.info("clients")["blocked_clients"] == 2)
        with site.redis.pubsub(ignore_subscribe_messages=True) as changes:
            changes.subscribe(f"__keyspace@0__:{worker.key}")
            messages = changes.listen()

            def beats(number):
                while number:
                    number -= next(messages)["data"] == b"hset"

            while site.redis.info("clients")["blocked_clients"] < 2:
                beats(1)
            site.redis.config_resetstat()
            beats(3)
        calls = {name.removeprefix("cmdstat_"): stat["calls"] for name, stat in site.redis.info("commandstats").items()}
    # It is blocked on its queues, and does not look at them.
    assert not calls.keys() & {"blmove", "lmove", "lpop", "blpop", "hgetall", "client|unblock"}
    # How many wait is told by what renews its lease and releases scheduled jobs, in the same script.
    assert calls["llen"] <= calls["lrange"]
    assert calls["hset"] <= 5


def test_a_job_whose_worker_is_killed_before_it_begins_is_known_to_run_there_and_runs_elsewhere(site):
    job = site.enqueue("low")
    site.work_until_killed_at("Log.begin", "high", "low")
    assert site.queue("low").started_job_registry.get_job_ids() == [job.id]
    assert not site.redis.exists("rq:queue:low:intermediate", "rq:queue:low")
    assert site.log(job.id) == []
    site.redis.zadd(keys.workers("rq"), dict.fromkeys(site.redis.zrange(keys.workers("rq"), 0, -1), 1))
    with site.worker("high", "low", settings=site.settings(lease=0.3, heartbeat_interval=0.1)):
        assert isinstance(site.ending(job.id), Completed)
    assert site.log(job.id)[0].attempt == 1
    assert site.leftovers() == set()


def test_a_job_whose_id_is_in_its_queue_twice_ends_once_and_right(site):
    job = site.enqueue(script={"words": 20, "interval": 0.02})
    site.redis.rpush("rq:queue:chat", job.id)
    site.work()
    assert isinstance(site.ending(job.id), Completed)
    assert [event.attempt for event in site.log(job.id) if isinstance(event, Started)] == [1, 2]
    assert site.fetch(job).get_status() is JobStatus.FINISHED
    assert site.leftovers() == set()


def test_the_only_run_of_a_job_is_handed_on_when_it_is_fenced(site, gate):
    """As after a failover: the log knows of a newer attempt, and RQ's records do not."""
    job = site.enqueue(script=HELD)
    with site.worker():
        site.streams(job.id)
        begun = events.encode(msgspec.structs.replace(site.log(job.id)[0], id="7-0", worker="another"))
        site.redis.xadd(keys.log(job.id), {"event": begun}, id="7-0")
        gate.set()
        assert isinstance(site.ending(job.id), Completed)
    assert site.log(job.id)[-2].attempt == 8
    assert site.leftovers() == set()


def age(site, seconds):
    """Let the time that Redis counts pass."""
    for key in site.redis.keys("*"):
        if key.startswith((b"rq:wip:", b"rq:executions:", b"rq:deltabus:workers")):
            for member in site.redis.zrange(key, 0, -1):
                site.redis.zincrby(key, -seconds, member)
        if (left := site.redis.ttl(key)) > 0:
            site.redis.expire(key, max(0, left - seconds))


def test_what_ran_when_all_workers_went_down_runs_again_hours_later(site):
    with site.process("worker", "--worker-class", "deltabus.worker.AsyncWorker", "chat") as worker:
        job = site.enqueue(script=STUCK_ONCE)
        site.streams(job.id)
        worker.process.send_signal(signal.SIGKILL)
        worker.end()
    age(site, 6 * 3600)
    site.rq("info")  # RQ cleans up its registries whenever somebody looks at them
    with site.worker(settings=site.settings(lease=0.3, heartbeat_interval=0.1)):
        assert isinstance(site.ending(job.id), Completed)
    assert site.log(job.id)[0].attempt == 1
    assert [event.attempt for event in site.log(job.id) if isinstance(event, Started)] == [1, 2]
    assert site.leftovers() == set()


@pytest.mark.parametrize("meanwhile", ["nothing", "put back by others, and run"])
def test_what_is_given_back_goes_into_the_queue_once_at_the_most(site, meanwhile):
    """A worker that was cut off with what it had taken and not yet started, and is told to leave when it comes back."""
    jobs = [site.enqueue() for _ in range(3)]
    for job in jobs:
        site.redis.hset(job.key, "origin", "elsewhere")  # which needs a look first

    async def story() -> None:
        async with redis.asyncio.Redis.from_url(site.url) as client:
            intake = site.intake(client)
            taken = await intake.take(2)
            assert [job.start for job in taken] == [None, None]
            if meanwhile != "nothing":
                await client.delete("rq:queue:chat:intermediate")
            await intake.give_back(taken)
            await intake.aclose()

    asyncio.run(story())
    waiting = [job_id.decode() for job_id in site.redis.lrange("rq:queue:chat", 0, -1)]
    assert waiting == [job.id for job in (jobs if meanwhile == "nothing" else jobs[2:])]
    assert not site.redis.exists("rq:queue:chat:intermediate")


def test_giving_jobs_back_holds_no_connection_when_it_is_cancelled_while_redis_is_silent(site):
    for _ in range(2):
        site.enqueue()

    async def story() -> None:
        async with redis.asyncio.Redis.from_url(site.url) as client:
            intake = site.intake(client)
            taken = await intake.take(2)
            await client.ping()  # a connection
            site.redis.client_pause(60_000, all=False)  # milliseconds; whatever writes waits
            giving = asyncio.create_task(intake.give_back(taken))
            for _ in range(100):  # turns of the loop, until it has nothing to do but wait
                await asyncio.sleep(0)
            giving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await giving
            assert not client.connection_pool._in_use_connections
            site.redis.client_unpause()
            await intake.aclose()

    asyncio.run(story())


def test_what_a_call_without_an_answer_has_started_comes_with_the_next_answer(site, monkeypatch):
    jobs = [site.enqueue() for _ in range(3)]
    site.redis.hset(jobs[1].key, OPEN_FIELD, "an earlier run of this round")
    lost = []

    async def story() -> None:
        async with redis.asyncio.Redis.from_url(site.url) as client:
            intake = site.intake(client)
            ask = intake._call

            async def without_answer(args: list[object]) -> None:
                lost.append(await ask(args))
                raise ConnectionError

            monkeypatch.setattr(intake, "_call", without_answer)
            for count in (1, 3):
                with pytest.raises(ConnectionError):
                    await intake.take(count)
                assert intake.is_unsure
            monkeypatch.setattr(intake, "_call", ask)
            taken = await intake.take(3)
            assert sorted(job.id for job in taken) == sorted(job.id for job in jobs)
            assert len(lost) == 4  # each is asked twice
            started = {job_id: execution for _, _, answer in lost for _, job_id, _, execution in answer}
            assert {job.id.encode(): job.start.execution.encode() for job in taken} == started
            assert [job.id for job in taken if job.is_open] == [jobs[1].id]
            assert not intake.is_unsure
            assert await intake.take(3) == []
            await intake.aclose()

    asyncio.run(story())


@pytest.mark.parametrize("broken", ["job", "executions"])
def test_a_broken_key_of_what_had_no_answer_does_not_keep_a_worker_from_other_jobs(site, monkeypatch, broken):
    first, second = site.enqueue(), site.enqueue()

    async def story() -> None:
        async with redis.asyncio.Redis.from_url(site.url) as client:
            intake = site.intake(client)
            ask = intake._call

            async def without_answer(args: list[object]) -> None:
                await ask(args)
                raise TimeoutError

            monkeypatch.setattr(intake, "_call", without_answer)
            with pytest.raises(TimeoutError):
                await intake.take(1)
            monkeypatch.setattr(intake, "_call", ask)
            key = first.key if broken == "job" else "rq:worker:w:executions"
            await client.delete(key)
            await client.set(key, "no collection")
            assert [job.id for job in await intake.take(3)] == [second.id]
            await intake.aclose()

    asyncio.run(story())


def test_what_waits_stays_where_it_is_while_redis_has_no_memory_left(site):
    job = site.enqueue()

    async def story() -> None:
        async with redis.asyncio.Redis.from_url(site.url) as client:
            intake = site.intake(client)
            await client.config_set("maxmemory", 1)
            with pytest.raises(redis.exceptions.ResponseError, match="maxmemory"):
                await intake.take(1)
            await client.config_set("maxmemory", 0)
            assert [taken.id for taken in await intake.take(1)] == [job.id]
            await intake.aclose()

    asyncio.run(story())
