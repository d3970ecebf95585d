"""ops/runbook.md at night: each symptom is put on, and its commands are typed as they stand, and answer as it says."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
import warm
import yaml
from certificates import Authority
from documents import ROOT, Block, Reader, blocks
from observed import fetch
from processes import DELTABUS, PATIENCE, Background, environ, free_port
from redis import Redis
from redis.exceptions import ResponseError
from rq.job import Job
from rq.registry import FailedJobRegistry

import deltabus
from chaos.nodes import Nodes
from deltabus import Bus, Task, TaskFailed, errors, events, keys
from deltabus.cli.check import _REFUSALS
from deltabus.embedded import EmbeddedRedis
from deltabus.monitoring.pulse import Trouble
from deltabus.settings import load
from deltabus.testing.server import Reply, ScriptedServer

DOCUMENT = ROOT / "ops" / "runbook.md"
PACKAGE = Path(deltabus.__file__).parent
HEADING = re.compile(r"^#{2,3} (.+)$")
#: What an entry of the runbook has, in this order, around its commands.
FORM = ("Symptom:", "Meaning:", "Cure")

CONFIG = """
[providers.vllm]
base_url = "{url}"
api_key = "sk-not-the-key"
models = ["llama-*"]

[providers.echo]
"""

#: Where the others of ops/deploy have it: beside the URL.
PASSWORD = "p@ss/w:rd"

#: An answer without end, until somebody cancels it.
ENDLESS = {"echo": {"words": 100_000, "interval": 0.05}}
#: Leases as short as a machine with a busy neighbour keeps them, and two slots to fill.
SETTINGS = {"DELTABUS_LEASE": "4", "DELTABUS_HEARTBEAT_INTERVAL": "1", "DELTABUS_CONCURRENCY": "2"}


def sections() -> dict[str, list[Block]]:
    """The blocks of each section, by its heading."""
    headings = {
        number: match[1]
        for number, line in enumerate(DOCUMENT.read_text(encoding="utf-8").splitlines(), 1)
        if (match := HEADING.match(line))
    }
    found: dict[str, list[Block]] = {heading: [] for heading in headings.values()}
    for block in blocks(DOCUMENT):
        found[headings[max(number for number in headings if number < block.line)]].append(block)
    return found


class Night:
    """A bus that runs, and somebody with the runbook; scenes put symptoms on."""

    def __init__(self, server: EmbeddedRedis, reader: Reader, folder: Path) -> None:
        self.server = server
        self.reader = reader
        self.folder = folder
        #: As ops/deploy sets it: a URL without its password, and the port that all processes of a host would have.
        self.environ = {
            "DELTABUS_CONFIG": str(folder / "deltabus.toml"),
            "DELTABUS_REDIS_URL": server.url.replace(f":{quote(PASSWORD, safe='')}@", ""),
            "DELTABUS_REDIS_PASSWORD_FILE": str(folder / "admin-password"),
            "DELTABUS_METRICS_PORT": reader.here("9464"),
            "DELTABUS_METRICS_HOST": "127.0.0.1",
            "DELTABUS_LOG_FORMAT": "json",
        }
        (folder / "admin-password").write_text(PASSWORD, encoding="utf-8")
        reader.environ |= {**self.environ, "RQ": "rq", "ADMIN": self.environ["DELTABUS_REDIS_URL"]}
        self.redis = Redis.from_url(server.url)
        self.bus = Bus(server.url)
        self.worker = self.start()

    def start(self, *options: str) -> Background:
        """A worker process; without options, the one whose port the runbook names."""
        variables = environ(**self.environ, **SETTINGS)
        worker = Background([*DELTABUS, "worker", "chat", "file", *options], folder=self.folder, environ=variables)
        try:
            worker.wait_for("worker started")
        except AssertionError:
            worker.stop()
            raise
        return worker

    def health(self, path: str = "healthz") -> str:
        with contextlib.suppress(OSError):
            return fetch(int(self.reader.here("9464")), f"/{path}").body
        return ""

    def until(self, seen: Callable[[], bool]) -> None:
        """Look until it is seen. Each look is a round trip, which takes its time."""
        deadline = time.monotonic() + PATIENCE
        while not seen():
            assert time.monotonic() < deadline, self.worker.said

    def well(self) -> bool:
        return '"ok"' in self.health("readyz")

    def show(self, **variables: str | int) -> None:
        self.reader.environ |= {name: str(value) for name, value in variables.items()}

    def done(self) -> Task:
        task = self.bus.chat(messages="hello there")
        task.result(timeout=PATIENCE)
        return task

    def running(self, **request: Any) -> Task:
        task = self.bus.chat(messages="hello", **(request or ENDLESS))
        for event in task.events():
            if isinstance(event, events.Delta):
                break
        return task

    def failed(self, **request: Any) -> Task:
        task = self.bus.chat(messages="hello", **(request or {"model": "llama-3"}))
        self.fails(task)
        return task

    def fails(self, task: Task) -> None:
        with pytest.raises(TaskFailed):
            task.result(timeout=PATIENCE)
        self.until(lambda: Job.fetch(task.id, connection=self.redis, serializer="json").is_failed)

    def tidy(self) -> None:
        """Leave an idle worker, and nothing that waits, runs or has failed."""
        self.until(self.well)
        for task in (*self.redis.zrange("rq:wip:chat", 0, -1), *self.redis.lrange("rq:queue:chat", 0, -1)):
            self.bus.task(task.decode().partition(":")[0]).cancel()
        self.until(lambda: not self.redis.exists("rq:wip:chat", "rq:queue:chat"))
        registry = FailedJobRegistry("chat", connection=self.redis, serializer="json")
        for task in registry.get_job_ids():
            registry.remove(task, delete_job=True)

    def succeeded(self) -> None:
        """The worker has left in good order; another one is there."""
        assert self.worker.end() == 0
        self.worker.stop()
        self.worker = self.start()
        self.show(PID=self.worker.process.pid)

    def close(self) -> None:
        self.worker.stop()
        self.bus.close()
        self.redis.close()


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Night]:
    folder = tmp_path_factory.mktemp("night")
    refusal = Reply.json({"error": {"message": "wrong key", "type": "authentication_error"}}, 401)
    with (
        EmbeddedRedis(args=("--appendonly", "yes", "--requirepass", PASSWORD)) as server,
        ScriptedServer(default=lambda _: refusal) as provider,
        Reader(folder) as reader,
        warm.programs() as programs,
    ):
        reader.environ["PATH"] = f"{programs}{os.pathsep}{reader.environ['PATH']}"
        (folder / "deltabus.toml").write_text(CONFIG.format(url=provider.url), encoding="utf-8")
        night = Night(server, reader, folder)
        try:
            night.show(PID=night.worker.process.pid)
            yield night
        finally:
            night.close()


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


@scene("Redis takes no more connections")
def no_connection_left(night: Night) -> Iterator[None]:
    port = urlsplit(night.server.url).port
    leak = f"for each in {{1..20}}; do exec {{fd}}<> /dev/tcp/127.0.0.1/{port}; done; echo leaking; exec sleep 600"
    with Background(["bash", "-c", leak]) as process:
        process.wait_for("leaking")
        night.redis.config_set("maxclients", night.redis.info("clients")["connected_clients"])
        night.show(PID=process.process.pid)
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
    running = night.running(echo={"words": 40, "interval": 0.02})
    night.redis.flushall()
    night.show(TASK=waiting.id)
    yield
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
    with night.start("--name", "unlucky", "--metrics-port", "0") as unlucky:
        task = night.running(echo={"words": 60, "interval": 0.1})
        unlucky.process.kill()
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
    night.redis.rpush("rq:queue:chat", task)
    night.fails(night.bus.task(task))
    night.show(TASK=task)
    yield
    assert not night.redis.exists(f"rq:job:{task}")
    assert (night.folder / "evidence.txt").stat().st_size


@scene("A task hangs", "Which worker runs a task", "What a task has said", "Subscribers get nothing")
def a_task_that_runs(night: Night) -> Iterator[None]:
    night.show(TASK=night.running().id)
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


SECTIONS = sections()


@pytest.mark.parametrize("heading", SECTIONS)
def test_a_symptom_is_what_its_commands_say(night: Night, heading: str) -> None:
    night.tidy()
    with SCENES.get(heading, contextlib.nullcontext)(*([night] if heading in SCENES else [])):
        for block in SECTIONS[heading]:
            night.reader.run(block)


def entries() -> dict[str, str]:
    """The text of each entry, by its heading."""
    found = re.split(
        r"^### (.+)\n", DOCUMENT.read_text(encoding="utf-8").partition("\n## Workers")[2], flags=re.MULTILINE
    )
    return dict(zip(found[1::2], found[2::2], strict=True))


#: Entries whose commands ask for keys, channels and nodes, and that a task which runs is symptom enough for.
ANYWHERE = (
    *("How to type this", "Which worker runs a task", "What a task has said", "Subscribers get nothing"),
    *("A subscriber is too slow", "Redis is slow", "Memory grows", "A task hangs"),
)


def test_the_commands_hold_on_a_cluster(tmp_path: Path) -> None:
    """As they stand. (Behind Sentinels is one server, once it is found, which tests/faults sees to.)"""
    with Nodes() as servers, Reader(tmp_path) as reader, warm.programs(RQ_KEY_PREFIX="{rq}") as programs:
        variables = {"DELTABUS_REDIS_URL": servers.url, "RQ_KEY_PREFIX": "{rq}", "DELTABUS_DRAIN_TIMEOUT": "0"}
        reader.environ |= {**variables, "PATH": f"{programs}{os.pathsep}{reader.environ['PATH']}", "RQ": "{rq}"}
        settings = load(environ=variables)
        with (
            Background([*DELTABUS, "worker", "chat", "file"], folder=tmp_path, environ=environ(**variables)) as worker,
            Bus(settings=settings) as bus,
            closing(bus.chat(messages="hello", **ENDLESS).events()) as events,
        ):
            worker.wait_for("worker started")
            task = next(events).task
            reader.environ |= {"TASK": task, "PID": str(worker.process.pid)}
            for block in (block for heading in ANYWHERE for block in SECTIONS[heading]):
                if block.language == "sh":  # several nodes answer in another order
                    reader.run(block)


def test_every_scene_has_its_entry_and_all_entries_one_form() -> None:
    assert SCENES.keys() <= SECTIONS.keys()
    for heading, text in entries().items():
        # A table has meaning and cure beside each other.
        form = FORM[:1] if re.search(r"^\|.*\| meaning \| cure \|$|becomes of it \| cure", text, re.MULTILINE) else FORM
        places = [text.find(word) for word in form]
        assert -1 not in places, f"{heading}: it has not all of {form}"
        assert places == sorted(places), f"{heading}: {form} in this order"
        assert re.match(r"\n(<a id=\"\w+\"></a>)*Symptom:", text), heading
        assert any(block.language == "sh" for block in SECTIONS[heading]), heading


def test_every_link_leads_to_something() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    places = {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in SECTIONS}
    places |= {*re.findall(r'<a id="(\w+)">', text)}
    for file, place in re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", text):
        assert not file or (DOCUMENT.parent / file).exists(), file
        assert file or place in places, place


def table(heading: str) -> dict[str, str]:
    """The rows of the table under a line of the runbook: the first cell by each name in it, and the others."""
    text = DOCUMENT.read_text(encoding="utf-8").partition(heading)[2].partition("| --- |")[2]
    rows = [line.strip("| ").split(" | ", 1) for line in text.partition("\n\n")[0].splitlines()[1:]]
    return {name: rest for names, rest in rows for name in re.findall("`([^`]+)`", names)}


def lines() -> Iterator[str]:
    """What workers log at `warning` or above; what varies is left out."""
    for path in (*PACKAGE.rglob("*.py"), *(ROOT / "plugins").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(
                    func=ast.Attribute(ast.Name("log" | "_log"), "warning" | "error" | "exception" | "critical"),
                    args=[ast.Constant(str(words)), *_],
                ):
                    yield re.sub(r"%[.\d]*[a-z]", "…", words)


def test_workers_have_here_what_the_files_of_deploy_give_them(night: Night) -> None:
    deploy = ROOT / "ops" / "deploy"
    given = "".join((deploy / name).read_text(encoding="utf-8") for name in ("Dockerfile", "compose.yaml"))
    given += (deploy / "systemd" / "deltabus-worker@.service").read_text(encoding="utf-8")
    assert {*re.findall(r"\b(DELTABUS_\w+)[=:]", given)} == night.environ.keys()


def test_every_line_that_warns_has_its_row() -> None:
    told = table("## Lines of the log")
    for line in lines():
        assert any(line.startswith(words) for words in told) or line == "Redis at … …: …", line
    said = "\n".join(lines())
    assert [words for words in told if words not in said and not words.startswith("Redis at …")] == []


def test_every_reason_of_health_has_its_row() -> None:
    reasons = {*re.findall(r'Problem\("(\w+)"', (PACKAGE / "monitoring" / "health.py").read_text(encoding="utf-8"))}
    assert {trouble.name.lower() for trouble in Trouble if trouble} < reasons
    assert table("give a reason**").keys() == reasons


def test_everything_that_check_finds_has_its_row() -> None:
    code = (PACKAGE / "cli" / "check.py").read_text(encoding="utf-8")
    found = {*re.findall(r'(?:Finding|_told)\(\s*f?"([^"{]+)', code)}
    assert {name.strip() for name in found} == {name.removesuffix(" …") for name in table("error or a warning**")}


@pytest.mark.parametrize("words", [*_REFUSALS, "busy running a script", "max number of clients", "WRONGPASS"])
def test_what_redis_says_where_it_is_there_is_found(words: str) -> None:
    text = DOCUMENT.read_text(encoding="utf-8").partition("**Words of Redis**")[2]
    assert words in text


def test_every_alert_has_an_anchor_and_leads_there() -> None:
    rules = yaml.safe_load((ROOT / "ops" / "prometheus" / "deltabus.rules.yml").read_text(encoding="utf-8"))
    alerts = {rule["alert"]: rule for group in rules["groups"] for rule in group["rules"]}
    named = {name: heading for heading, text in entries().items() for name in re.findall(r'<a id="(\w+)">', text)}
    assert named.keys() == alerts.keys()
    for name, rule in alerts.items():
        assert f"`{name}`" in entries()[named[name]]
        assert rule["annotations"]["runbook_url"] == f"ops/runbook.md#{name}"


def test_every_code_has_a_meaning_and_a_cure() -> None:
    codes = {cls.code for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, errors.TaskError)}
    table = DOCUMENT.read_text(encoding="utf-8").partition("| code | meaning | cure |")[2].partition("\n\n")[0]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines()[2:]]
    assert all(len(row) == 3 and all(row) for row in rows)
    assert {row[0].strip("`") for row in rows} == codes
