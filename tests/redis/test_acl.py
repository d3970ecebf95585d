"""The recipes of ops/acl: what each role may do, on a real server with real processes, and what it may not."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis
from documents import ROOT
from processes import DELTABUS, PATIENCE, Background, environ
from processes import run as run_to_its_end
from redis.exceptions import NoPermissionError
from rq import Queue

from deltabus import Bus, Cancelled, Completed, Failed, TaskFailed
from deltabus.cli import exits
from deltabus.embedded import EmbeddedRedis, find_server
from deltabus.errors import BusError
from deltabus.settings import Settings
from deltabus.topology import clients

RECIPES = ROOT / "ops" / "acl"

PASSWORD = "correct horse"

CHAT = "deltabus.tasks.chat"

#: Tenants besides `acme`.
OTHERS = ("globex", "initech")


class Fort:
    """A server that knows the roles, of tenant `acme` and of `globex`."""

    def __init__(self, server: EmbeddedRedis) -> None:
        self._server = server
        self.root = redis.Redis.from_url(server.url, decode_responses=True)

    def url(self, user: str) -> str:
        return f"redis://{user}:{PASSWORD.replace(' ', '%20')}@127.0.0.1:{urlsplit(self._server.url).port}/0"

    @contextlib.contextmanager
    def client(self, user: str) -> Iterator[redis.Redis]:
        with contextlib.closing(clients.blocking(self.url(user))) as client:
            yield client

    def bus(self, user: str, tenant: str = "acme") -> Bus:
        settings = Settings(redis_url=self.url(user), id_prefix=f"{tenant}-", redis_timeout=10)
        return Bus(settings=settings, queue=tenant)

    @contextlib.contextmanager
    def worker(self, *queues: str, **variables: str) -> Iterator[Background]:
        command = [*DELTABUS, "worker", *(queues or ("initech",))]
        with Background(command, environ=environ(self.url("deltabus-worker"), **variables)) as process:
            process.wait_for("worker started")
            yield process

    def refusals(self, user: str) -> list[Any]:
        """What the server has refused to this user."""
        return [entry for entry in self.root.acl_log() if entry["username"] == user]


@pytest.fixture(scope="module")
def fort(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fort]:
    if "v=6" in subprocess.run([find_server(), "--version"], capture_output=True, text=True, check=True).stdout:
        skip_or_fail = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        skip_or_fail("Redis 6 knows no permissions for reading alone")
    digest = hashlib.sha256(PASSWORD.encode()).hexdigest()
    recipes = [file.read_text().replace("SHA256", digest) for file in sorted(RECIPES.glob("*.acl"))]
    recipes += [recipe.replace("acme", other) for recipe in recipes if "acme" in recipe for other in OTHERS]
    users = tmp_path_factory.mktemp("acl") / "users.acl"
    users.write_text("".join(recipes))
    with EmbeddedRedis(args=["--aclfile", str(users)]) as server:
        fort = Fort(server)
        yield fort
        fort.root.close()


@pytest.fixture(scope="module")
def staff(fort: Fort) -> Iterator[Background]:
    """A worker for all tests that do nothing to theirs."""
    with fort.worker("acme", "globex", "file", DELTABUS_PARK_AFTER="0.2") as worker:
        yield worker


@pytest.fixture(autouse=True)
def clean(fort: Fort) -> None:
    fort.root.acl_log_reset()


def refused(call: Callable[..., Any], *arguments: Any, **options: Any) -> None:
    with pytest.raises((NoPermissionError, BusError), match=r"permission|can't"):
        call(*arguments, **options)


def test_a_producer_a_subscriber_and_a_worker_need_no_more_than_their_roles(fort: Fort, staff: Background) -> None:
    with (
        fort.bus("deltabus-acme-producer") as bus,
        fort.bus("deltabus-acme-subscriber") as reader,
    ):
        task = bus.chat({"echo": {"words": 30, "interval": 0.01}}, messages="hello")
        assert task.id.startswith("acme-")
        *_, last = reader.task(task.id).events()
        assert isinstance(last, Completed)
        assert task.status().state == "completed"
        many = bus.chat_many([{"messages": [{"role": "user", "content": "hello"}], "model": "echo"}] * 3)
        for one in many:
            one.result(timeout=PATIENCE)
        parked = bus.chat(
            {"echo": {"words": 3, "fail_after": 0, "retry_after": 0.5, "fail_attempts": 1, "error": "rate_limited"}},
            messages="hello",
        )
        assert parked.result(timeout=PATIENCE)
        failing = bus.chat({"echo": {"words": 3, "error": "invalid_request", "fail_after": 0}}, messages="hello")
        with pytest.raises(TaskFailed):
            failing.result(timeout=PATIENCE)
        running = bus.chat({"echo": {"words": 3, "stall_after": 1}}, messages="hello")
        events = running.events()
        next(events)
        assert running.cancel("enough")
        *_, last = events
        assert isinstance(last, Cancelled)
        blob = bus.blob(b"some bytes")
        assert blob.startswith("acme-")
        assert b"".join(bus.read_blob(blob)) == b"some bytes"
        file = bus.upload({"blob": blob, "filename": "some.txt"}, purpose="user_data", queue="acme")
        with contextlib.suppress(TaskFailed):  # echo has files, or it has not
            file.result(timeout=PATIENCE)
        bus.delete_blob(blob)
    assert fort.refusals("deltabus-worker") == []
    # It runs no scripts, and may load none.
    assert {entry["object"] for entry in fort.refusals("deltabus-acme-subscriber")} == {"script|load"}
    # It may not take a job from its queue, and asks the worker to.
    assert {entry["object"] for entry in fort.refusals("deltabus-acme-producer")} == {"rq:scheduled:acme"}


def test_what_waits_is_cancelled_for_a_producer_by_the_worker_that_takes_it(fort: Fort) -> None:
    with fort.bus("deltabus-initech-producer", "initech") as bus:
        task = bus.chat(messages="hello")
        assert task.cancel("changed my mind")
        with fort.worker():
            *_, last = task.events()
    assert isinstance(last, Cancelled)
    assert last.reason == "changed my mind"


def test_stock_rq_and_plain_commands_enqueue_as_a_producer(fort: Fort, staff: Background) -> None:
    envelope = {"request": {"messages": [{"role": "user", "content": "hello"}]}}
    with fort.client("deltabus-acme-producer") as client, fort.bus("deltabus-acme-subscriber") as bus:
        job = Queue("acme", connection=client, serializer="json").enqueue(CHAT, envelope, job_id="acme-1")
        assert bus.task(job.id).result(timeout=PATIENCE)
        client.hset(
            "rq:job:acme-2",
            mapping={
                "data": f'["{CHAT}", null, [{{"request": {{"messages": []}}}}], {{}}]',
                "origin": "acme",
                "status": "queued",
                "created_at": "2026-01-01T00:00:00.000000Z",
            },
        )
        client.sadd("rq:queues", "rq:queue:acme")
        client.rpush("rq:queue:acme", "acme-2")
        with pytest.raises(TaskFailed, match="invalid_request"):
            bus.task("acme-2").result(timeout=PATIENCE)


def test_a_producer_gets_no_further_than_its_tenant(fort: Fort, staff: Background) -> None:
    with fort.bus("deltabus-globex-producer", "globex") as theirs:
        other = theirs.chat({"echo": {"words": 3}}, messages="a secret of globex")
        other.result(timeout=PATIENCE)
        blob = theirs.blob(b"a secret of globex")
        with fort.bus("deltabus-acme-producer") as bus, fort.client("deltabus-acme-producer") as client:
            refused(list, bus.task(other.id).events())
            refused(bus.task(other.id).status)
            refused(bus.task(other.id).cancel)
            refused(bus.chat, messages="hello", queue="globex")
            refused(bus.chat, messages="hello", task_id="globex-1")
            refused(lambda: b"".join(bus.read_blob(blob)))
            for command in (
                ("HGETALL", f"rq:job:{other.id}"),
                ("XRANGE", f"deltabus:{{{other.id}}}:log", "-", "+"),
                ("XREVRANGE", f"rq:results:{other.id}", "+", "-"),
                ("RPUSH", "rq:queue:globex", "acme-1"),
                ("SET", f"deltabus:{{{other.id}}}:cancel", ""),
                ("SUBSCRIBE", f"deltabus:{{{other.id}}}:events"),
                ("PSUBSCRIBE", "*"),
                ("SUBSCRIBE", "deltabus:results:globex"),
                ("LRANGE", "rq:queue:globex", "0", "-1"),
            ):
                refused(client.execute_command, *command)


def test_a_channel_that_the_worker_may_not_use_fails_the_task_that_asks_for_it(fort: Fort, staff: Background) -> None:
    with fort.bus("deltabus-acme-producer") as bus:
        with pytest.raises(TaskFailed, match="can't publish to the channel"):
            bus.chat(messages="hello", reply_to="somebody:else").result(timeout=PATIENCE)
        assert bus.chat(messages="hello", reply_to="replies:mine").result(timeout=PATIENCE)


def test_a_producer_publishes_no_results_and_touches_no_records(fort: Fort, staff: Background) -> None:
    with fort.bus("deltabus-acme-producer") as bus:
        task = bus.chat({"echo": {"words": 3}}, messages="hello")
        task.result(timeout=PATIENCE)
        with fort.client("deltabus-acme-producer") as client:
            for command in (
                ("XADD", f"deltabus:{{{task.id}}}:log", "*", "event", "{}"),
                ("PUBLISH", f"deltabus:{{{task.id}}}:events", "{}"),
                ("PUBLISH", "deltabus:results:acme", "{}"),
                ("XADD", f"rq:results:{task.id}", "*", "type", "1"),
                ("DEL", "rq:queues"),
                ("DEL", f"deltabus:{{{task.id}}}:log"),
                ("LPOP", "rq:queue:acme"),
                ("SET", f"rq:job:{task.id}", ""),
                ("ZADD", "rq:deltabus:workers", "1", "me"),
                ("SET", "rq:suspended", "1"),
                ("PUBLISH", "rq:pubsub:somebody", "{}"),
                ("EVAL", "return 1", "0"),
                ("FLUSHALL",),
                ("KEYS", "*"),
                ("SCAN", "0"),
                ("CONFIG", "GET", "*"),
                ("ACL", "LIST"),
            ):
                refused(client.execute_command, *command)


def test_a_producer_cannot_have_a_function_run_that_is_not_registered(fort: Fort, staff: Background) -> None:
    """That much Redis cannot see: the worker refuses it."""
    with fort.client("deltabus-acme-producer") as client:
        refused(client.function_load, "#!lua name=mine\nredis.register_function('mine', function() return 1 end)")
        job = Queue("acme", connection=client, serializer="json").enqueue("os.system", "true", job_id="acme-3")
        with fort.bus("deltabus-acme-subscriber") as bus:
            *_, last = bus.task(job.id).events()
    assert isinstance(last, Failed)
    assert last.error.code == "unknown_task"


def test_a_worker_of_a_tenant_runs_only_what_it_is_told_to(fort: Fort) -> None:
    """That is how a tenant is limited to functions; to providers, by those that its worker has."""
    with fort.worker(DELTABUS_FUNCTIONS="chat"), fort.bus("deltabus-initech-producer", "initech") as bus:
        assert bus.chat(messages="hello").result(timeout=PATIENCE)
        with pytest.raises(TaskFailed, match="an operator can add it to `functions`"):
            bus.embeddings("hello", queue="initech").result(timeout=PATIENCE)
        with pytest.raises(TaskFailed, match="unknown_provider"):
            bus.chat(messages="hello", provider="elsewhere").result(timeout=PATIENCE)


def test_a_message_alone_cancels_nothing(fort: Fort, staff: Background) -> None:
    """The channel is for all tenants; the key, which says so, is not."""
    with fort.bus("deltabus-globex-producer", "globex") as bus:
        task = bus.chat({"echo": {"words": 20, "interval": 0.05}}, messages="hello")
        events = task.events()
        next(events)
        with fort.client("deltabus-acme-producer") as client:
            assert client.publish("deltabus:cancel", task.id) == 1
        *_, last = events
        assert isinstance(last, Completed)
        assert "Traceback" not in staff.said


def test_a_subscriber_writes_nothing(fort: Fort) -> None:
    task = "acme-1"
    with fort.client("deltabus-acme-subscriber") as client:
        writing, scripting, dangerous = (fort.root.acl_cat(kind) for kind in ("write", "scripting", "dangerous"))
        (rules,) = (line.split() for line in fort.root.acl_list() if line.startswith("user deltabus-acme-subscriber "))
        assert not {f"+{name}" for name in (*writing, *scripting, *dangerous)} & {*rules} - {"+role"}
        assert [rule for rule in rules if "@" in rule] == ["-@all", "+@connection"]
        refused(client.client_kill, "127.0.0.1:1")
        for command in (
            ("SET", f"deltabus:{{{task}}}:cancel", ""),
            ("XADD", f"deltabus:{{{task}}}:log", "*", "event", "{}"),
            ("HSET", f"rq:job:{task}", "status", "finished"),
            ("PUBLISH", f"deltabus:{{{task}}}:events", "{}"),
            ("EVAL", "return 1", "0"),
            ("SCRIPT", "LOAD", "return 1"),
            ("XRANGE", "deltabus:{globex-1}:log", "-", "+"),
            ("SUBSCRIBE", "deltabus:results:globex"),
            ("PSUBSCRIBE", "deltabus:*"),
        ):
            refused(client.execute_command, *command)
    with fort.bus("deltabus-acme-subscriber") as bus:
        refused(bus.chat, messages="hello")
        refused(bus.blob, b"bytes")


def test_a_worker_has_no_power_over_the_server_or_others_keys(fort: Fort) -> None:
    with fort.client("deltabus-worker") as client:
        for command in (
            ("FLUSHALL",),
            ("FLUSHDB",),
            ("CONFIG", "SET", "dir", "/"),
            ("CONFIG", "GET", "*"),
            ("KEYS", "*"),
            ("ACL", "LIST"),
            ("SHUTDOWN",),
            ("REPLICAOF", "NO", "ONE"),
            ("CLIENT", "LIST"),
            ("CLIENT", "KILL", "TYPE", "normal"),
            ("MONITOR",),
            ("SCRIPT", "FLUSH"),
            ("FUNCTION", "FLUSH"),
            ("MODULE", "LIST"),
            ("EVAL", "return 1", "0"),
            ("GET", "somebody:else"),
            ("SET", "somebody:else", "1"),
            ("PUBLISH", "somebody:else", "1"),
        ):
            refused(client.execute_command, *command)
    # Servers refuse this one to all for other reasons, too.
    assert "no permissions" in fort.root.execute_command("ACL", "DRYRUN", "deltabus-worker", "DEBUG", "SLEEP", "0")


@pytest.fixture
def operate(fort: Fort, staff: Background, tmp_path: Path) -> Iterator[Callable[..., str]]:
    """`operate(*words)`: what a command says to an operator, who needs no right that he has not."""
    url = fort.url("deltabus-operator")

    def run(*words: str) -> str:
        done = run_to_its_end(words, environ=environ(url), folder=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    yield run
    assert {entry["object"] for entry in fort.refusals("deltabus-operator")} <= {"acl|whoami"}


def test_an_operator_sees_and_mends_what_has_failed(fort: Fort, operate: Callable[..., str]) -> None:
    with fort.bus("deltabus-acme-producer") as bus:
        task = bus.chat({"echo": {"words": 3, "error": "invalid_request", "fail_after": 0}}, messages="hello")
        with pytest.raises(TaskFailed):
            task.result(timeout=PATIENCE)
        deadline = time.monotonic() + PATIENCE
        while fort.root.zcard("rq:failed:acme") == 0 and time.monotonic() < deadline:
            fort.root.blpop(["nothing"], timeout=0.05)
        assert task.id in operate(*DELTABUS, "dead", "list")
        operate(*DELTABUS, "dead", "show", task.id)
        operate(*DELTABUS, "dead", "requeue", task.id)
        assert "rq:job:…" in operate(*DELTABUS, "redis", "--memory")


def test_an_operator_sees_and_halts_the_workers(operate: Callable[..., str]) -> None:
    rq = (sys.executable, "-m", "rq.cli")
    assert "acme, globex, file" in operate(*rq, "info", "--config", "deltabus.rqsettings")
    operate(*rq, "suspend", "--config", "deltabus.rqsettings")
    operate(*rq, "resume", "--config", "deltabus.rqsettings")


def test_an_operator_sees_how_it_is(operate: Callable[..., str]) -> None:
    assert '"ok":true' in operate(*DELTABUS, "check", "--json")
    assert '"slots":' in operate(*DELTABUS, "stats", "--json")  # and so `top`, which asks for the same


def test_a_workers_host_can_be_checked_with_the_workers_own_user(fort: Fort, tmp_path: Path) -> None:
    words = [*DELTABUS, "check", "--production", "--json"]
    variables = environ(fort.url("deltabus-worker"))
    done = run_to_its_end(words, environ=variables, folder=tmp_path)
    states = {finding["subject"]: finding["state"] for finding in json.loads(done.stdout)["findings"]}
    assert (states["Redis"], states["rights"]) == ("ok", "ok")
    assert {"redis.user", "redis.password"}.isdisjoint(states), "it is a user of its own, and has a password"


def test_a_worker_without_a_right_says_which_and_where_it_stands(fort: Fort) -> None:
    fort.root.execute_command("ACL", "SETUSER", "deltabus-worker", "-blmove")
    try:
        with fort.worker() as worker:
            said = worker.wait_for("refuses what this worker needs")
            assert "'blmove'" in said
            assert "ops/acl" in said
            assert "is away" not in said
            fort.root.execute_command("ACL", "SETUSER", "deltabus-worker", "+blmove")
            worker.wait_for("lets this worker do again")
        fort.root.execute_command("ACL", "SETUSER", "deltabus-worker", "-hset")
        with Background([*DELTABUS, "worker", "initech"], environ=environ(fort.url("deltabus-worker"))) as worker:
            assert worker.end() == exits.FAILED
            assert "'hset'" in worker.said
            assert "ops/acl" in worker.said
            assert "Traceback" not in worker.said
    finally:
        fort.root.execute_command("ACL", "SETUSER", "deltabus-worker", "+blmove", "+hset")


def test_leases_of_the_wrong_type_are_no_outage(fort: Fort) -> None:
    with fort.worker(DELTABUS_LEASE="8") as worker:  # a slow Redis is given a third of it
        fort.root.delete("rq:deltabus:workers")
        fort.root.set("rq:deltabus:workers", "something else")
        said = worker.wait_for("refuses what this worker needs for: lease")
        assert "another program uses it" in said
        fort.root.delete("rq:deltabus:workers")
        worker.wait_for("lets this worker do again what it needs for: lease")
        assert "is away" not in worker.said
