"""What users of other systems complain of, one pain a test: the name says the pain, the docstring where it is told.

`owner/repo#N` is a GitHub issue or pull request. Where it costs little, a test shows the pain first.
"""

from __future__ import annotations

import contextlib
import json
import pickle
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from detour import Detour
from faults import Scene, attempts
from processes import DELTABUS, PATIENCE, Background, environ
from rq import Queue, SimpleWorker
from rq.command import send_stop_job_command
from rq.intermediate_queue import IntermediateQueue
from scripted import HELLO, STILL, limited, says, speaks_to, text
from talker import Talker, talk, told

from chaos.proxy import Point, Then
from deltabus import Bus, Task, keys
from deltabus.events import Cancelled, Completed, Delta, Failed, Retrying, Started
from deltabus.scripts import REAP
from deltabus.testing import Action, Reply, ScriptedServer, Signal, check_events


@contextlib.contextmanager
def stock(scene: Scene, *queues: str, url: str | None = None, burst: bool = False) -> Iterator[Background]:
    """RQ's own worker, as a process."""
    command = (sys.executable, "-m", "rq.cli", "worker", "--url", url or scene.server.url, "--serializer", "json")
    options = ("--worker-class", "rq.SimpleWorker", *(("--burst",) if burst else ()))
    with Background((*command, *options, *queues), environ=environ()) as worker:
        yield worker


# Jobs that get lost


def test_a_kill_right_after_the_pop_from_several_queues_loses_no_job(scene: Scene) -> None:
    """RQ pops from more than one queue with BLPOP (`rq.Queue.dequeue_any`): then the job is in no list."""
    (lost,) = scene.chat()
    with Detour(scene.server.url) as detour, stock(scene, "file", "chat", url=detour.url) as victim:
        detour.strike_at(Point((b"LPOP",), done=True, answer=lost.id.encode()), victim.process.kill, Then.LOSE)()
    for key in scene.redis.scan_iter(_type="list"):
        assert lost.id.encode() not in scene.redis.lrange(key, 0, -1)
    assert scene.redis.hget(f"rq:job:{lost.id}", "status") == b"queued"
    with Detour(scene.server.url) as detour, scene.worker("file", DELTABUS_REDIS_URL=detour.url) as killed:
        struck = detour.strike_at("after the take", killed.process.kill, Then.LOSE)
        (task,) = scene.chat(words=3)
        struck()
    with scene.worker("file"):
        assert attempts(scene.words(task, 3)) == 1


def test_a_job_stuck_in_the_intermediate_list_is_run_and_not_failed(scene: Scene) -> None:
    """RQ fails it after a minute, though nobody has run it: rq/rq#507, #584, #1516 (`rq.intermediate_queue`)."""
    given_up, task = scene.chat(2, words=3)
    queue = Queue("chat", connection=scene.redis, serializer="json")
    for waiting in (given_up, task):
        scene.redis.lmove("rq:queue:chat", "rq:queue:chat:intermediate")
        seen = IntermediateQueue("rq:queue:chat", scene.redis).get_first_seen_key(waiting.id)
        scene.redis.set(seen, time.time() - 120)
    scene.redis.lrem("rq:queue:chat:intermediate", 1, task.id)
    queue.intermediate_queue.cleanup(SimpleWorker([queue], connection=scene.redis, serializer="json"), queue)
    assert scene.redis.hget(f"rq:job:{given_up.id}", "status") == b"failed"
    scene.redis.rpush("rq:queue:chat:intermediate", task.id)
    with scene.worker():
        assert attempts(scene.words(task, 3)) == 1
        scene.nothing_is_left()


def test_a_job_hash_that_does_not_parse_does_not_end_the_worker(scene: Scene) -> None:
    """RQ's worker quits on it, and so does the next one that is started."""

    def enqueue_garbage() -> Task:
        (broken,) = scene.chat()
        scene.redis.hset(f"rq:job:{broken.id}", "created_at", "yesterday")
        return broken

    enqueue_garbage()
    (task,) = scene.chat(words=3)
    with stock(scene, "chat", burst=True) as worker:
        worker.wait_for("found an unhandled exception, quitting")
        worker.end()
    assert scene.redis.lrange("rq:queue:chat", 0, -1) == [task.id.encode()]
    broken = enqueue_garbage()
    scene.redis.lmove("rq:queue:chat", "rq:queue:chat", "RIGHT", "LEFT")
    with scene.worker():
        scene.words(task, 3)
        assert scene.ending(broken).error.code == "invalid_request"
        scene.nothing_is_left()
        assert scene.redis.zscore("rq:failed:chat", broken.id) is not None


def test_a_pickle_is_never_opened_and_does_not_end_the_worker(scene: Scene, tmp_path: Path) -> None:
    """RQ's default: whoever can write to Redis runs code in the worker: rq/rq#2389."""
    touched = tmp_path / "touched"
    bomb = Queue("chat", connection=scene.redis).enqueue("pathlib.Path.touch", touched)
    assert pickle.loads(bomb.data)[0] == "pathlib.Path.touch"
    (task,) = scene.chat(words=3)
    with scene.worker():
        scene.words(task, 3)
        assert scene.ending(scene.bus.task(bomb.id)).error.code == "invalid_request"
    assert not touched.exists()


def test_a_deploy_that_does_not_wait_leaves_no_job_stuck(scene: Scene, talker: Talker) -> None:
    """rq/rq#507, #584, #1516, python-arq/arq#343. To RQ, a job without `retry` that lost its worker has failed."""
    with scene.worker(**talker.settings) as old:
        (task,) = talk(scene.bus)
        scene.streams(task)
        old.process.send_signal(signal.SIGTERM)
        old.wait_for("draining")
        old.process.kill()
        talker.let_end()
        with scene.worker(**talker.settings):
            assert told(task) == 2
            scene.nothing_is_left()
    assert scene.redis.hget(f"rq:job:{task.id}", "status") == b"finished"


def test_a_kill_of_whoever_recovers_the_work_of_the_dead_loses_none_of_it(scene: Scene, talker: Talker) -> None:
    """Recovery that itself fails on SIGKILL: taskiq-python/taskiq-redis#131."""
    with scene.worker(**talker.settings) as first:
        (task,) = talk(scene.bus)
        scene.streams(task)
        first.process.kill()
    with Detour(scene.server.url) as detour, scene.worker(DELTABUS_REDIS_URL=detour.url) as second:
        reaped = Point((REAP.sha,), done=True, answer=task.id.encode())
        detour.strike_at(reaped, second.process.kill, Then.LOSE)()
    talker.let_end()
    with scene.worker(**talker.settings):
        assert told(task) == 2
        scene.nothing_is_left()


def test_a_long_silence_is_not_taken_for_a_dead_worker(scene: Scene, provider: ScriptedServer) -> None:
    """A fixed idle time after which live long jobs run twice: taskiq-python/taskiq-redis#101, celery/celery#5935."""
    go = Signal()
    provider.script(Reply.sse(says("Hel"), go, says("lo", "stop")))
    with scene.worker(**speaks_to(provider)), scene.worker(**speaks_to(provider)):
        task = scene.bus.chat(messages="hi", model="m")
        scene.streams(task)
        later = time.time() + 3 * 2  # leases

        def all_leases_go_beyond() -> bool:
            leases = scene.redis.zrange(keys.workers("rq"), 0, -1, withscores=True)
            return len(leases) == 2 and all(ends > later for _, ends in leases)

        scene.until(all_leases_go_beyond)
        go.set()
        assert text(task) == "Hello"
        assert attempts(list(task.events())) == 1
    assert len(provider.requests) == 1


def test_a_task_that_kills_its_workers_is_not_redelivered_for_ever(scene: Scene) -> None:
    """A poison job that went round for 17 hours: activepieces/activepieces#15130."""
    (poison,) = scene.chat(words=3, stall_after=1)
    for death in (1, 2):
        with scene.worker(DELTABUS_MAX_DELIVERIES="2") as victim:
            scene.streams(poison, attempt=death)
            victim.process.kill()
    with scene.worker(DELTABUS_MAX_DELIVERIES="2"):
        end = scene.ending(poison)
        assert isinstance(end, Failed)
        assert end.error.code == "worker_lost"
        assert attempts(list(poison.events())) == 2
        scene.nothing_is_left()  # RQ's records follow a moment after the log
        assert scene.redis.zscore("rq:failed:chat", poison.id) is not None


def test_a_worker_does_not_fall_silent_after_it_has_lost_redis(durable: Scene) -> None:
    """It looks alive and takes no work any more: celery/celery#8030, #8091, #10205."""
    with durable.worker("file"):
        for strike in (durable.server.restart, lambda: cut(durable), durable.server.restart, lambda: cut(durable)):
            strike()
            (task,) = durable.chat(words=3)
            durable.words(task, 3)
            # Commands and cancels are heard again, too, or found.
            (silent,) = durable.chat(words=9, stall_after=1)
            durable.streams(silent)
            assert silent.cancel() is True
            assert isinstance(durable.ending(silent), Cancelled)
        durable.nothing_is_left()


def cut(scene: Scene) -> None:
    """Cut every connection but one's own."""
    for kind in ("normal", "pubsub"):
        scene.redis.client_kill_filter(_type=kind, skipme=True)


# Cancels that get lost, or do not stop what costs money


def test_a_stop_ends_the_generation_at_the_provider(scene: Scene, provider: ScriptedServer) -> None:
    """The button only stops the reading: vercel/ai#6502, vercel/resumable-stream#27."""
    provider.script(Reply.sse(says("Hel"), Action.HANG, done=False))
    with scene.worker(**speaks_to(provider), **STILL):
        task = scene.bus.chat(messages="hi", model="m")
        scene.streams(task)
        assert task.cancel("enough") is True
        provider.requests[0].closed.wait(PATIENCE)
        assert scene.ending(task).reason == "enough"


def test_a_cancel_whose_message_is_lost_is_not(scene: Scene) -> None:
    """Pub/sub was away for a moment, the run went on: aegra/aegra#529."""
    with scene.worker():
        (task,) = scene.chat(words=1000, stall_after=3)
        scene.streams(task)
        scene.redis.set(keys.cancel(task.id), "changed my mind", ex=60)  # and nobody publishes it
        assert scene.ending(task).reason == "changed my mind"
        scene.nothing_is_left()


def test_one_of_many_running_tasks_can_be_cancelled(scene: Scene) -> None:
    """Asked for for years: taskforcesh/bullmq#632, rq/rq#684."""
    with scene.worker():
        (unwanted,) = scene.chat(words=40, stall_after=1)
        wanted = scene.chat(4, words=40, interval=0.05)
        for task in [unwanted, *wanted]:
            scene.streams(task)
        send_stop_job_command(scene.redis, unwanted.id, serializer="json")
        assert isinstance(scene.ending(unwanted), Cancelled)
        for task in wanted:
            assert attempts(scene.words(task, 40)) == 1
        scene.nothing_is_left()


def test_a_stop_of_the_worker_lets_what_runs_come_to_its_end(scene: Scene) -> None:
    """A soft stop: rq/rq#1868."""
    with scene.worker() as worker:
        (running,) = scene.chat(words=40, interval=0.05)
        scene.streams(running)
        worker.process.send_signal(signal.SIGTERM)
        assert worker.end() == 0
    assert attempts(scene.words(running, 40)) == 1


# Rate limits that are not taken for what they are


def test_a_429_without_retry_after_is_backed_off_from(scene: Scene, provider: ScriptedServer) -> None:
    """BerriAI/litellm#27823."""
    provider.script(limited(), limited(), HELLO)
    with scene.worker(**speaks_to(provider)):
        task = scene.bus.chat(messages="hi", model="m")
        assert text(task) == "Hello"
        # Nobody had seen anything yet: it is nobody's business.
        assert [type(event) for event in task.events() if not isinstance(event, Delta)] == [Started, Completed]
    assert len(provider.requests) == 3


def test_the_retry_after_of_a_stream_that_is_refused_is_kept(scene: Scene, provider: ScriptedServer) -> None:
    """The header is lost where the answer was to stream: BerriAI/litellm#41528."""
    provider.script(limited(Retry_After="30"), HELLO)
    with scene.worker(**speaks_to(provider)):
        asked = time.time()
        task = scene.bus.chat(messages="hi", model="m", stream=True)
        retrying = scene.reaches(task, lambda event: isinstance(event, Retrying))
        assert isinstance(retrying, Retrying)
        assert retrying.delay == 30
        scene.until(lambda: scene.redis.zscore("rq:scheduled:chat", task.id) is not None)
        assert scene.redis.zscore("rq:scheduled:chat", task.id) >= asked + 30
        scene.redis.zadd("rq:scheduled:chat", {task.id: 1})  # half a minute later
        assert text(task) == "Hello"
        scene.nothing_is_left()


def test_a_429_in_the_middle_of_a_stream_is_not_taken_for_its_end(scene: Scene, provider: ScriptedServer) -> None:
    """It went past the fallback, as what had been streamed was not undone: BerriAI/litellm#22297."""
    refusal = {"error": {"message": "slow down", "code": 429}}
    provider.script(Reply.sse(says("Help"), refusal), HELLO)
    with scene.worker(**speaks_to(provider)):
        task = scene.bus.chat(messages="hi", model="m")
        events = list(task.events())
        check_events(events)
        (retrying,) = [event for event in events if isinstance(event, Retrying)]
        assert retrying.error is not None
        assert retrying.error.code == "rate_limited"
        assert attempts(events) == 2
        assert text(task) == "Hello"


# Streams that break off for their readers


def test_the_final_event_is_not_lost_with_a_connection(scene: Scene, provider: ScriptedServer) -> None:
    """The client streams for ever: vercel/resumable-stream#47. Nor is it subscribed again: django/channels_redis#256,
    lmnr-ai/lmnr#2411."""
    go = Signal()
    provider.script(Reply.sse(says("Hel"), go, says("lo", "stop")))
    with scene.worker(**speaks_to(provider)):
        task = scene.bus.chat(messages="hi", model="m")
        following = task.events()
        assert isinstance(next(following), Started)
        assert isinstance(next(following), Delta)
        scene.redis.client_kill_filter(_type="pubsub", skipme=True)
        go.set()
        assert isinstance(list(following)[-1], Completed)


def test_a_stream_is_resumed_after_its_producer_is_gone(scene: Scene) -> None:
    """vercel/resumable-stream#44, #41; without a gap where it is taken up: agentscope-ai/agentscope#2124."""
    with scene.worker() as producer:
        (task,) = scene.chat(words=30, interval=0.02)
        following = task.events()
        seen = [next(following) for _ in range(3)]
        following.close()
        task.result(PATIENCE)
        producer.process.kill()
    with Bus(scene.server.url) as elsewhere:
        rest = list(elsewhere.task(task.id).events(after=seen[-1].id))
    assert [*seen, *rest] == list(task.events())
    assert isinstance(rest[-1], Completed)


def test_a_log_does_not_run_out_while_its_task_runs(scene: Scene, provider: ScriptedServer) -> None:
    """A replay that is cut short without an error: aegra/aegra#599."""
    go = Signal()
    provider.script(Reply.sse(says("Hel"), go, says("lo", "stop")))
    with scene.worker(**speaks_to(provider)):
        task = scene.bus.chat(messages="hi", model="m")
        scene.streams(task)
        scene.redis.expire(keys.log(task.id), 30)
        scene.until(lambda: scene.redis.ttl(keys.log(task.id)) > 30)
        go.set()
        assert "".join(task.text()) == "Hello"
        assert [type(event) for event in task.events() if not isinstance(event, Delta)] == [Started, Completed]


def test_a_repeated_append_doubles_no_event(scene: Scene) -> None:
    """A publisher's retry after a lost answer: aegra/aegra#441."""
    with Detour(scene.server.url) as detour, scene.worker(DELTABUS_REDIS_URL=detour.url):
        struck = detour.strike_at("after a delta", lambda: None, Then.LOSE)
        (task,) = scene.chat(words=30, interval=0.02)
        struck()
        assert attempts(scene.words(task, 30)) == 1


def test_a_second_round_under_the_same_id_drops_no_chunk(scene: Scene) -> None:
    """Numbers that begin anew are taken for old ones: danny-avila/LibreChat#13117."""
    queue = Queue("chat", connection=scene.redis, serializer="json")
    with scene.worker():
        (task,) = scene.chat(words=3)
        cursor = scene.words(task, 3)[-2].id
        scene.until(lambda: queue.fetch_job(task.id).is_finished)
        queue.enqueue_job(queue.fetch_job(task.id))
        again = list(task.events(after=cursor))
        while again[0].attempt is None:  # it has not begun yet
            again = list(task.events(after=cursor))
    assert isinstance(again[0], Started)
    assert again[0].attempt == 2
    assert sum(isinstance(event, Delta) for event in again) >= 1


def test_a_reader_too_slow_for_redis_misses_nothing(scene: Scene) -> None:
    """Redis cuts it off (`client-output-buffer-limit`), and what it had not read is gone: redis/redis-py#1261."""
    scene.redis.config_set("client-output-buffer-limit", "pubsub 65536 0 0")
    with scene.worker():
        # Far more than the sockets between them hold.
        (task,) = scene.chat(text="x" * 50_000, words=160, interval=0.005)
        watch = (*DELTABUS, "watch", task.id, "--json")
        with Background(watch, environ=environ(scene.server.url)) as reader:
            reader.wait_for('"type":"delta"')
            reader.process.send_signal(signal.SIGSTOP)
            task.result(PATIENCE)
            scene.until(lambda: scene.redis.pubsub_numsub(keys.events(task.id))[0][1] == 0)
            reader.process.send_signal(signal.SIGCONT)
            assert reader.end() == 0
            last = json.loads(reader.said.splitlines()[-1])
    assert last["type"] == "completed"
