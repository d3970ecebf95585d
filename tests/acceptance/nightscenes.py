"""What puts each symptom of ops/runbook.md on: scenes of a night, by the heading of their entry."""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from certificates import Authority
from night import PASSWORD, Night
from processes import PATIENCE, Background, free_port
from redis.exceptions import ResponseError

from deltabus import keys
from deltabus.embedded import EmbeddedRedis

Scene = Callable[[Night], contextlib.AbstractContextManager[None]]
#: What puts a section's symptom on, by its heading; where a section has none, all is well.
SCENES: dict[str, Scene] = {}


def scene(*headings: str) -> Callable[[Callable[[Night], Iterator[None]]], None]:
    def add(play: Callable[[Night], Iterator[None]]) -> None:
        SCENES.update(dict.fromkeys(headings, contextlib.contextmanager(play)))

    return add


@scene("Where to look first")
def a_bus_at_work(night: Night) -> Iterator[None]:
    night.done()
    night.failed()
    night.running()
    yield


@scene("Nobody works on that queue")
def a_mistyped_queue(night: Night) -> Iterator[None]:
    task = night.bus.chat(messages="hello", queue="chta")
    night.show(QUEUE="chta")
    yield
    task.result(timeout=PATIENCE)
    night.redis.srem("rq:queues", "rq:queue:chta")


@scene("Work is suspended")
def suspended(night: Night) -> Iterator[None]:
    night.redis.set("rq:suspended", 1)
    night.until(lambda: '"suspended"' in night.health())
    yield
    night.done()


@scene("Workers look alive and do nothing")
def stopped(night: Night) -> Iterator[None]:
    night.worker.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        night.worker.process.send_signal(signal.SIGCONT)


@scene("The queue grows")
def too_few_slots(night: Night) -> Iterator[None]:
    for _ in range(2):
        night.running()
    waiting = [night.bus.chat(messages="hello") for _ in range(3)]
    night.until(lambda: 'deltabus_queue_depth{queue="chat"} 3.0' in night.health("metrics"))
    yield
    for task in waiting:
        task.result(timeout=PATIENCE)


@scene("A provider fails", "A secret was changed")
def a_key_that_is_refused(night: Night) -> Iterator[None]:
    task = night.failed()
    yield
    night.until(lambda: [event.id for event in task.events()][-2:-1] == ["2-0"])
    night.fails(task)


@scene("Tasks fail")
def a_failed_task(night: Night) -> Iterator[None]:
    night.show(TASK=night.failed().id)
    yield


@scene("Dead tasks")
def failed_tasks(night: Night) -> Iterator[None]:
    night.failed(echo={"error": "provider_unavailable"}, retry={"max": 0})
    yield


@scene("Redis is away")
def no_redis(night: Night) -> Iterator[None]:
    night.server.kill()
    try:
        night.until(lambda: "Redis does not answer" in night.health())
        yield
    finally:
        night.server.start()


@scene("Redis is full")
def no_memory(night: Night) -> Iterator[None]:
    night.redis.config_set("maxmemory", 1)
    night.show(BYTES="1gb")
    try:
        yield
    finally:
        night.redis.config_set("maxmemory", 0)


@scene("Redis is read-only")
def a_replica(night: Night) -> Iterator[None]:
    night.redis.replicaof("127.0.0.1", free_port())
    try:
        yield
    finally:
        night.redis.replicaof("NO", "ONE")


@scene("Memory grows", "Something came twice")
def a_task_that_is_done(night: Night) -> Iterator[None]:
    night.show(TASK=night.done().id)
    yield


@scene("Redis cannot write to its disk")
def no_disk(night: Night) -> Iterator[None]:
    """Where its snapshot should go, a folder is in the way."""
    snapshot = Path(night.redis.config_get("dir")["dir"]) / night.redis.config_get("dbfilename")["dbfilename"]
    snapshot.unlink(missing_ok=True)
    snapshot.mkdir()
    night.redis.config_set("save", "3600 100000")
    night.redis.bgsave()
    night.until(lambda: "MISCONF" in night.health())
    yield
    snapshot.rmdir()
    # Not the one that the runbook had begun.
    night.until(lambda: not night.redis.info("persistence")["rdb_bgsave_in_progress"])
    night.redis.bgsave()
    night.until(night.well)
    night.redis.config_set("save", "")


@scene("A script keeps Redis busy")
def a_script_without_end(night: Night) -> Iterator[None]:
    night.redis.config_set("lua-time-limit", 10)

    def loop() -> None:
        with pytest.raises(ResponseError, match="killed by user"):
            night.redis.eval("while true do end", 0)

    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(loop)
        night.until(lambda: "BUSY" in night.health())
        yield
        done.result(PATIENCE)
    night.redis.config_set("lua-time-limit", 5000)


@scene("Redis takes no more connections")
def no_connection_left(night: Night) -> Iterator[None]:
    port = urlsplit(night.server.url).port
    leak = f"for each in {{1..20}}; do exec {{fd}}<> /dev/tcp/127.0.0.1/{port}; done; echo leaking; exec sleep 600"
    with Background(["bash", "-c", leak]) as process:
        process.wait_for("leaking")
        # Less than there are, as one of them may leave; and those that leak are more than that.
        night.redis.config_set("maxclients", night.redis.info("clients")["connected_clients"] - 10)
        night.show(PID=process.process.pid, CLIENTS=10_000)
        try:
            yield
        finally:
            night.show(PID=night.worker.process.pid)


@scene("Redis refuses a right")
def a_user_without_it(night: Night) -> Iterator[None]:
    night.redis.acl_setuser(
        "limited", enabled=True, passwords=[f"+{PASSWORD}"], keys=["*"], commands=["+@all", "-xadd"]
    )
    night.show(DELTABUS_REDIS_URL=night.environ["DELTABUS_REDIS_URL"].replace("//", "//limited@"))
    yield
    night.show(**night.environ)


@scene("A key is of another type")
def a_key_of_somebody_elses(night: Night) -> Iterator[None]:
    night.redis.set("rq:queue:taken", "something else")
    night.show(QUEUE="taken")
    yield
    assert night.redis.delete("taken-aside")


@scene("Redis has forgotten")
def everything_deleted(night: Night) -> Iterator[None]:
    waiting = night.bus.chat(messages="hello", queue="elsewhere")
    running = night.talking("what is forgotten")
    night.redis.flushall()
    night.show(TASK=waiting.id)
    yield
    night.talker.let_end("what is forgotten")
    assert running.result(timeout=PATIENCE)


@scene("One tenant fills the queue")
def a_thousand_of_one(night: Night) -> Iterator[None]:
    tasks = [night.bus.chat(messages="hello", queue="crowd", task_id=f"acme-{number}") for number in range(3)]
    other = night.bus.chat(messages="hello", queue="crowd", task_id="globex-1")
    night.show(QUEUE="crowd", TENANT="acme")
    yield
    assert [type(list(task.events())[-1]).__name__ for task in tasks] == ["Cancelled"] * 3
    assert night.redis.lrange("rq:queue:crowd", 0, -1) == [b"globex-1"]
    other.cancel()
    night.redis.srem("rq:queues", "rq:queue:crowd")


@scene("A provider cannot be used")
def a_provider_without_its_plugin(night: Night) -> Iterator[None]:
    file = night.folder / "deltabus.toml"
    before = file.read_text(encoding="utf-8")
    file.write_text(f'{before}[providers.broken]\nplugin = "chta"\n', encoding="utf-8")
    yield
    file.write_text(before, encoding="utf-8")


@scene("A certificate has expired")
def an_old_certificate(night: Night) -> Iterator[None]:
    authority = Authority(night.folder)
    authority.sign("server", days=-1)
    port = free_port()
    files = {name: authority.path(f"{file}.pem") for name, file in (("cert", "server"), ("ca-cert", "ca"))}
    args = [word for name, path in files.items() for word in (f"--tls-{name}-file", path)]
    args += ["--tls-port", str(port), "--tls-key-file", authority.path("server.key"), "--tls-auth-clients", "no"]
    with EmbeddedRedis(args=args):
        night.show(SERVER=f"localhost:{port}")
        yield


@scene("A subscriber is too slow")
def somebody_who_listens(night: Night) -> Iterator[None]:
    with night.redis.pubsub() as pubsub:
        pubsub.subscribe("deltabus:results:chat")
        pubsub.get_message(timeout=PATIENCE)
        yield


@scene("A worker was killed or froze")
def killed(night: Night) -> Iterator[None]:
    for _ in range(2):
        night.running()
    with night.start("--name", "unlucky", "--metrics-port", "0", DELTABUS_LEASE="4") as unlucky:
        task = night.talking("who was killed")
        unlucky.process.kill()
    night.talker.let_end("who was killed")
    for other in night.redis.zrange("rq:wip:chat", 0, -1):
        if (name := other.decode().partition(":")[0]) != task.id:
            night.bus.task(name).cancel()
    night.show(TASK=task.id)
    yield


@scene("One task kills its workers")
def poison(night: Night) -> Iterator[None]:
    task = "poison-1"
    data = json.dumps(
        ["deltabus.tasks.chat", None, [{"request": {"messages": [{"role": "user", "content": "x"}]}}], {}]
    )
    fields = {"data": data, "origin": "chat", "status": "queued", "deltabus_lost": "5"}
    night.redis.hset(f"rq:job:{task}", mapping=fields)
    night.redis.sadd("rq:queues", "rq:queue:chat")  # as every producer does
    night.redis.rpush("rq:queue:chat", task)
    night.fails(night.bus.task(task))
    night.show(TASK=task)
    yield
    assert not night.redis.exists(f"rq:job:{task}")
    assert (night.folder / "evidence.txt").stat().st_size


@scene("A task hangs", "Which worker runs a task", "What a task has said", "Subscribers get nothing")
def a_task_that_runs(night: Night) -> Iterator[None]:
    task = night.running()
    # Nobody listens to it any more.
    night.until(lambda: night.redis.pubsub_numsub(keys.events(task.id))[0][1] == 0)
    night.show(TASK=task.id)
    yield


@scene("A cancel does not act")
def a_wish_that_nobody_sees(night: Night) -> Iterator[None]:
    task = night.bus.chat(messages="hello", queue="elsewhere")
    night.redis.set(keys.cancel(task.id), "too late")
    night.show(TASK=task.id, DONE=night.done().id)
    yield
    night.redis.delete("rq:queue:elsewhere")
    night.redis.srem("rq:queues", "rq:queue:elsewhere")


@scene("Send a worker home")
def a_worker_with_work(night: Night) -> Iterator[None]:
    task = night.running()
    yield
    task.cancel()
    night.succeeded()


@scene("A worker drains for ever")
def a_worker_that_was_told_to_go(night: Night) -> Iterator[None]:
    night.running()
    night.worker.process.terminate()
    night.until(lambda: '"draining"' in night.health("readyz"))
    # A second signal within a second is the first one, seen twice.
    night.redis.blpop(["nothing"], timeout=1.1)
    yield
    night.succeeded()
