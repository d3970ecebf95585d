"""`deltabus check --production`: what each rule finds, and what it lets pass."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deltabus import settings
from deltabus.cli import production, redisproduction
from deltabus.cli.finding import Finding
from deltabus.cli.production import judge
from deltabus.cli.surroundings import Server, Surroundings, survey
from deltabus.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
RULES = {**redisproduction.RULES, **production.RULES}

#: A server that nothing can be said against.
SERVER = Server(
    info={"maxmemory_policy": "noeviction", "maxmemory": 1 << 30, "aof_enabled": 1, "connected_slaves": 1},
    config={"appendfsync": "everysec", "min-replicas-to-write": "1", "save": "", "dir": "/var/lib/redis"},
    user="worker",
)

GOOD = """
metrics_port = 9464
redis_url = "rediss://worker@redis.example/0"
redis_password = {file = "password"}

[providers.openai]
api_key = {file = "key"}
"""


@pytest.fixture
def around(tmp_path):
    """Surroundings of which a part is wrong."""

    def around(text: str = "", *, server: Server | None = SERVER, config: str = GOOD, **more: Any) -> Surroundings:
        for name in ("password", "key"):
            (tmp_path / name).write_text("secret-0123456789")
        file = tmp_path / "deltabus.toml"
        file.write_text(text + config if "[providers." not in text else config + text)
        loaded = settings.load(file, {})
        modes = {file: 0o640, tmp_path / "password": 0o400, tmp_path / "key": 0o400}
        made = Surroundings(loaded, server, file, settings.configfile.read(file), modes)
        return replace(made, **more)

    return around


def found(around: Surroundings) -> dict[str, Finding]:
    return {finding.subject: finding for finding in judge(around) if finding.state != "ok"}


def test_a_setup_that_is_well_has_no_findings(around) -> None:
    assert found(around()) == {}
    (last,) = judge(around())
    assert (last.subject, last.state, last.detail) == (
        "production",
        "ok",
        f"{len(RULES)} of {len(RULES)} rules have nothing to say",
    )


def url(text: str) -> str:
    return f'redis_url = "{text}"\n[providers.openai]\napi_key = {{file = "key"}}\n'


@pytest.mark.parametrize(
    ("address", "subject", "state"),
    [
        ("redis://:pw@redis.example", "redis.tls", "error"),
        ("rediss://:pw@redis.example?ssl_cert_reqs=none", "redis.tls", "error"),
        ("rediss://:pw@redis.example?ssl_check_hostname=false", "redis.tls", "warning"),
        ("rediss://redis.example", "redis.password", "error"),
        ("redis://localhost", "redis.password", "warning"),
        ("redis://127.0.0.1:6379", "redis.password", "warning"),
        ("redis://[::1]:6379", "redis.password", "warning"),
        ("redis://[::1]", "redis.password", "warning"),
        ("redis+sentinel://:pw@s1,s2:26379/main", "redis.tls", "error"),
        ("redis+sentinel://localhost:1,localhost:2/main", "redis.password", "warning"),
    ],
)
def test_redis_lets_nobody_in_and_nobody_listen(around, address: str, subject: str, state: str) -> None:
    assert found(around(config=url(address)))[subject].state == state


@pytest.mark.parametrize(
    "address",
    [
        "rediss://redis.example?ssl_certfile=/x&ssl_keyfile=/y",
        "unix:///run/redis.sock",
        "rediss://redis.example?password=pw",
    ],
)
def test_other_ways_of_safety_are_known(around, address: str) -> None:
    assert not {"redis.password", "redis.tls"} & set(found(around(config=url(address))))


def test_a_password_on_the_command_line_is_told(around) -> None:
    made = around(config=url("rediss://:pw@redis.example"))
    shown = replace(made, settings=replace(made.settings, sources={"redis_url": "--redis"}))
    assert found(shown)["redis.password-shown"].state == "error"
    assert "redis.password-shown" not in found(made)


def server(*, user: str = "worker", info: dict[str, Any] | None = None, **config: str) -> Server:
    named = {name.replace("_", "-"): value for name, value in config.items()}
    return replace(SERVER, user=user, info={**SERVER.info, **(info or {})}, config={**SERVER.config, **named})


@pytest.mark.parametrize(
    ("server", "subject", "state"),
    [
        (server(user="default"), "redis.user", "warning"),
        (server(dir="/tmp/deltabus-redis-x1"), "redis.private", "error"),
        (server(info={"maxmemory_policy": "allkeys-lru"}), "redis.eviction", "error"),
        (server(info={"maxmemory": 0}), "redis.memory", "warning"),
        (server(info={"aof_enabled": 0}), "redis.persistence", "error"),
        (server(info={"aof_enabled": 0}, save="3600 1"), "redis.persistence", "warning"),
        (replace(server(info={"aof_enabled": 0}), config={}), "redis.persistence", "warning"),
        (server(appendfsync="no"), "redis.persistence", "warning"),
        (server(info={"connected_slaves": 0}), "redis.replicas", "warning"),
        (server(min_replicas_to_write="0"), "redis.replicas", "warning"),
        (replace(SERVER, other_queues=["default", "mail"]), "queues.shared", "warning"),
        (replace(SERVER, pickled_queues=["chat"]), "queues.serializer", "error"),
    ],
)
def test_redis_keeps_what_it_is_given(around, server: Server, subject: str, state: str) -> None:
    findings = found(around(server=server))
    assert (list(findings), findings[subject].state) == ([subject], state)


def test_a_redis_that_does_not_tell_or_is_away_is_not_suspected(around) -> None:
    assert found(around(server=replace(SERVER, config={}))) == {}
    assert found(around(server=None)) == {}


@pytest.mark.parametrize(
    ("text", "subject", "state"),
    [
        ('[providers.echo]\nmodels = ["x"]', "providers.echo", "error"),
        ('[providers.a]\nbase_url = "http://gateway/v1"\napi_key = {file = "key"}', "providers.plain-http", "error"),
        ('[providers.a]\nbase_url = "http://gateway/v1"', "providers.plain-http", "warning"),
        ("[providers.a]\nverify = false", "providers.certificates", "error"),
        ("[providers.a]\ntimeouts = {between_bytes = 0}", "providers.timeouts", "warning"),
        ("job_timeout = 90000", "worker.job-timeout", "warning"),
        ("drain_timeout = 26", "worker.drain", "error"),
        ("drain_timeout = 0", "worker.drain", "warning"),
        ("result_ttl = -1", "worker.retention", "warning"),
        ("failure_ttl = -1", "worker.retention", "warning"),
        ("concurrency = 40000", "worker.open-files", "error"),
        ('log_level = "debug"', "logs.level", "error"),
        ('log_format = "console"', "logs.format", "warning"),
        ('file_roots = ["/"]', "files.paths", "error"),
        ('file_roots = ["/etc/deltabus"]', "files.paths", "error"),
        ('file_roots = ["/home"]', "files.paths", "error"),
        ('storage_roots = ["s3://bucket"]', "files.storage", "warning"),
        ('storage_roots = ["s3://bucket/"]', "files.storage", "warning"),
        ('url_hosts = ["files.internal"]', "files.urls", "warning"),
        ('url_hosts = ["169.254.169.254:80"]', "files.urls", "error"),
        ('webhook_hosts = ["localhost"]', "webhooks.hosts", "error"),
    ],
)
def test_a_setting_that_is_unsafe_is_named(around, text: str, subject: str, state: str) -> None:
    findings = found(around(text + "\n"))
    assert (list(findings), findings[subject].state) == ([subject], state)
    assert findings[subject].fix


@pytest.mark.parametrize(
    "text",
    [
        '[providers.a]\nbase_url = "http://localhost:8000/v1"\napi_key = {file = "key"}',
        '[providers.a]\nbase_url = "https://gateway/v1"\napi_key = {file = "key"}',
        'file_roots = ["/srv/deltabus"]\nstorage_roots = ["s3://bucket/tasks"]\nwebhook_hosts = ["hooks.example"]',
    ],
)
def test_a_setting_that_is_safe_passes(around, text: str) -> None:
    assert found(around(text + "\n")) == {}


def test_a_folder_that_holds_the_secrets_is_none_for_tasks(around, tmp_path: Path) -> None:
    findings = found(around(f'file_roots = ["{tmp_path}"]\n'))
    assert "where deltabus.toml is" in findings["files.paths"].detail


def test_the_drain_has_the_time_that_the_operator_says(around) -> None:
    assert found(around("drain_timeout = 60\n", grace=65)) == {}
    told = found(around(grace=10))["worker.drain"]
    assert told.detail.startswith("`drain_timeout` (25 s) and 5 s to hand back are over the 10 s of --grace")
    assert told.fix is not None
    assert told.fix.startswith("set it to 5 at most")


def test_no_provider_is_not_the_echo_in_production(tmp_path: Path) -> None:
    loaded = settings.load(environ={"DELTABUS_REDIS_URL": "unix:///s"})
    assert found(Surroundings(loaded))["providers.echo"].fix == "add [providers.NAME]"


def test_secrets_that_are_written_out_are_told_and_not_shown(around, tmp_path: Path) -> None:
    file = tmp_path / "deltabus.toml"
    for config in (
        '[providers.a]\napi_key = "sk-written-out"',
        'redis_url = "rediss://:written-out@h"\n[providers.a]',
        'redis_url = "rediss://h"\nredis_password = "written-out"\n[providers.a]',
    ):
        warned = found(around(config=config))["secrets.readable"]
        assert warned.state == "warning"
        unsafe = found(around(config=config, modes={file: 0o644}))["secrets.readable"]
        assert (unsafe.state, unsafe.fix) == ("error", f"chmod 640 {file}")
        assert "written-out" not in f"{warned} {unsafe}"
    assert "secrets.readable" not in found(around(config='[providers.a]\napi_key = "${HOME_KEY}"'))


def test_files_that_others_read_or_write_are_told(around, tmp_path: Path) -> None:
    file, key = tmp_path / "deltabus.toml", tmp_path / "key"
    assert found(around(modes={file: 0o644, key: 0o444}))["secrets.readable"].fix == f"chmod 400 {key}"
    assert found(around(modes={file: 0o664}))["config.writable"].state == "warning"
    assert found(around(modes={file: 0o666}))["config.writable"].state == "error"


def test_the_process_is_not_root(around) -> None:
    assert found(around(user=0))["worker.root"].state == "warning"
    assert found(around(open_files=256))["worker.open-files"].state == "error"


def test_that_nobody_can_see_how_workers_are_is_a_warning(around) -> None:
    assert found(around(config=GOOD.replace("9464", "0")))["metrics.port"].state == "warning"


def test_every_rule_is_in_a_test_and_in_the_document() -> None:
    tested = set(re.findall(r'"([a-z]+\.[a-z-]+)"', Path(__file__).read_text(encoding="utf-8")))
    assert set(RULES) <= tested
    table = (ROOT / "ops" / "security.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `([a-z]+\.[a-z-]+)` \|", table, re.MULTILINE)) == set(RULES)


SECRET = {"OTEL_EXPORTER_OTLP_HEADERS": "authorization=sk-4f8a1c7e"}
ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"


@pytest.mark.parametrize(
    ("otel", "is_unsafe"),
    [
        (SECRET | {ENDPOINT: "http://collector.internal:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://bob:sk-4f8a1c7e@collector.internal/v1/traces"}, True),
        ({ENDPOINT: "http://collector.internal:4318"}, False),
        (SECRET | {ENDPOINT: "https://collector.internal:4318"}, False),
        (SECRET | {ENDPOINT: "http://127.0.0.1:4318"}, False),
        (SECRET | {ENDPOINT: "http://[garbage"}, False),
        (SECRET, False),
    ],
)
def test_headers_for_a_collector_do_not_go_over_http(around, monkeypatch, otel, is_unsafe) -> None:
    for name, value in otel.items():
        monkeypatch.setenv(name, value)
    findings = found(replace(around(), plain_collector=survey(Settings(traces="on"), None, None).plain_collector))
    assert ("traces.plain-http" in findings) == is_unsafe
    assert "sk-4f8a1c7e" not in str(findings)
    assert not survey(Settings(), None, None).plain_collector
