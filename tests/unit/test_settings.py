"""What `settings.load` makes of the file and the environment."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from deltabus import settings
from deltabus.errors import ConfigError
from deltabus.settings import Settings
from deltabus.settings.settings import CHOICES


@pytest.fixture
def config(tmp_path):
    """Write a deltabus.toml and get its path."""

    def write(text: str) -> Path:
        path = tmp_path / "deltabus.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture(autouse=True)
def somewhere_else(tmp_path_factory, monkeypatch):
    """No test reads a deltabus.toml that happens to lie in the working directory."""
    monkeypatch.chdir(tmp_path_factory.mktemp("empty"))


def complaint(path: Path | None = None, environ: dict[str, str] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        settings.load(path, environ or {})
    return str(caught.value)


def test_nothing_configured_means_the_defaults_and_echo():
    loaded = settings.load(environ={})
    assert loaded == Settings(providers=loaded.providers)
    assert [(name, provider.plugin) for name, provider in loaded.providers.items()] == [("echo", "echo")]


def test_the_environment_is_over_the_file_and_the_file_over_the_defaults(config):
    path = config('concurrency = 5\nlease = 20\nqueues = ["fast", "slow"]\nlog_level = "WARNING"\n')
    loaded = settings.load(path, {"DELTABUS_CONCURRENCY": "7"})
    assert (loaded.concurrency, loaded.lease, loaded.queues) == (7, 20, ("fast", "slow"))
    assert loaded.log_level == "warning"
    assert loaded.heartbeat_interval == Settings().heartbeat_interval


def test_the_process_environment_is_read_where_none_is_given(monkeypatch):
    monkeypatch.setenv("DELTABUS_CONCURRENCY", "9")
    assert settings.load().concurrency == 9


def test_the_file_is_the_argument_or_the_variable_or_the_working_directory(config, tmp_path, monkeypatch):
    path = config("concurrency = 1\n")
    named = tmp_path / "other.toml"
    named.write_text("concurrency = 2\n")
    environ = {"DELTABUS_CONFIG": str(named)}
    assert settings.load(path, environ).concurrency == 1
    assert settings.load(None, environ).concurrency == 2
    monkeypatch.chdir(path.parent)
    assert settings.load(None, {}).concurrency == 1


@pytest.mark.parametrize(
    ("variable", "text", "field", "value"),
    [
        ("DELTABUS_QUEUES", "a, b,c", "queues", ("a", "b", "c")),
        ("DELTABUS_WEBHOOK_HOSTS", "hooks.example", "webhook_hosts", ("hooks.example",)),
        ("DELTABUS_DRAIN_TIMEOUT", "0", "drain_timeout", 0.0),
        ("DELTABUS_HEARTBEAT_INTERVAL", "0.5", "heartbeat_interval", 0.5),
        ("DELTABUS_RESULT_TTL", "-1", "result_ttl", -1),
        ("DELTABUS_LOG_FORMAT", "JSON", "log_format", "json"),
        ("DELTABUS_REDIS_URL", "unix:///run/redis.sock", "redis_url", "unix:///run/redis.sock"),
        ("REDIS_URL", "rediss://h:1/2", "redis_url", "rediss://h:1/2"),
        ("RQ_KEY_PREFIX", "jobs", "rq_key_prefix", "jobs"),
    ],
)
def test_a_variable_sets_its_field(variable, text, field, value):
    assert getattr(settings.load(environ={variable: text}), field) == value


def test_every_field_has_a_variable():
    samples = {int: "11", float: "4.5", str: "x", tuple: "x,y"}
    special = {"redis_url": "unix:///s", "file_roots": "/x,/y", "storage_roots": "s3://x,s3://y/z"}
    for name, default in vars_of(Settings()).items():
        if name in {"providers", "sources", "rq_key_prefix"}:
            continue
        choices = CHOICES.get(name)
        text = choices[-1] if choices else special.get(name, samples[type(default)])
        loaded = settings.load(environ={f"DELTABUS_{name.upper()}": text})
        assert getattr(loaded, name) != default, name
        assert loaded.sources[name] == f"DELTABUS_{name.upper()}"


def vars_of(value: Settings) -> dict[str, object]:
    return {name: getattr(value, name) for name in value.__dataclass_fields__}


def test_our_redis_variable_wins_over_the_platforms():
    environ = {"REDIS_URL": "redis://platform", "DELTABUS_REDIS_URL": "redis://ours"}
    assert settings.load(environ=environ).redis_url == "redis://ours"


def test_an_empty_variable_counts_as_not_set():
    assert settings.load(environ={"DELTABUS_CONCURRENCY": "", "DELTABUS_CONFIG": ""}).concurrency == 100


def test_a_string_of_the_file_may_refer_to_the_environment(config):
    path = config('redis_url = "redis://:${PASSWORD}@h/0"\n')
    assert settings.load(path, {"PASSWORD": "hunter22"}).redis_url == "redis://:hunter22@h/0"
    assert complaint(path) == f"`redis_url` in {path}: environment variable PASSWORD is not set"


@pytest.mark.parametrize(
    ("text", "place"),
    [("a = 1\nb =\n", ":2"), ("a = 1\na = 2\n", ":2"), ('a = """x', "")],
)
def test_bad_toml_is_reported_with_its_line(config, text, place):
    path = config(text)
    assert complaint(path).startswith(f"{path}{place}: not TOML: ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("concurency = 5", "unknown key `concurency` in {file}; did you mean `concurrency`?"),
        ("provider = 5", "unknown key `provider` in {file}; did you mean `providers`?"),
        ("concurrency = 1.0", "`concurrency` in {file} must be a whole number (attempts at once), not the number 1.0"),
        ("concurrency = 0", "`concurrency` in {file} must be a whole number (attempts at once) above 0, not 0"),
        ("concurrency = true", "`concurrency` in {file} must be a whole number (attempts at once), not true or false"),
        ("lease = nan", "`lease` in {file} must be a number (seconds) above 0, not nan"),
        ('lease = "30s"', "`lease` in {file} must be a number (seconds), not a string"),
        ("drain_timeout = -1", "`drain_timeout` in {file} must be a number (seconds) of at least 0, not -1"),
        (
            "failure_ttl = 0",
            "`failure_ttl` in {file} must be a whole number (seconds) above 0 (or -1: for ever), not 0",
        ),
        (
            'redis_url = {env = "A", file = "b"}',
            (
                "`redis_url` in {file} must be a string, or one of "
                '{env = "…"}, {file = "…"}, {command = ["…"]}, not a table'
            ),
        ),
        ("lease = {}", "`lease` in {file} must be a number (seconds), not a table"),
        ("lease = 1979-05-27", "`lease` in {file} must be a number (seconds), not a date"),
        ("max_log_bytes = [1]", "`max_log_bytes` in {file} must be a whole number (bytes), not a list of other things"),
        ('queues = "chat"', "`queues` in {file} must be a list of names, not a string"),
        ("queues = [1]", "`queues` in {file} must be a list of names, not a list of other things"),
        ('queues = ["chat", " "]', "`queues` in {file} must be a list of names: one of these is empty"),
        ("queues = []", "`queues` in {file} must name at least one queue"),
        ('queues = ["a", "a"]', "`queues` in {file} names the same thing twice"),
        (
            'log_level = "loud"',
            "`log_level` in {file} must be one of debug, info, warning, error, critical, not 'loud'",
        ),
        ("log_level = 3", "`log_level` in {file} must be a string, not the number 3"),
        (
            'rq_key_prefix = "x"',
            "`rq_key_prefix` in {file} has no effect on RQ; set the environment variable RQ_KEY_PREFIX instead",
        ),
        ("providers = 1", "`providers` in {file} must be tables, one for each provider: [providers.NAME]"),
        ("[providers]\nx = 1", "`providers.x` in {file} must be a table, [providers.x], not the number 1"),
        (
            "[providers.x]\nplugin = 1",
            "`plugin` of [providers.x] in {file} must be the name of an installed plugin, not the number 1",
        ),
        (
            '[providers.x]\nmodels = "gpt-*"',
            '`models` of [providers.x] in {file} must be a list of patterns such as ["gpt-*"], not a string',
        ),
        (
            "[providers.'a b']",
            "[providers.a b] in {file}: a provider's name is 1 to 64 letters, digits, `.`, `_` and `-`",
        ),
    ],
)
def test_a_wrong_value_names_the_key_its_kind_and_the_fix(config, text, message):
    path = config(text)
    assert complaint(path) == message.replace("{file}", str(path))


def test_an_unknown_key_that_is_near_to_none_lists_what_there_is(config):
    told = complaint(config("xyzzy = 1"))
    assert "`xyzzy`" in told
    assert "concurrency" in told
    assert "[providers.NAME]" in told


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        (
            {"DELTABUS_CONCURRENCY": "many"},
            "environment variable DELTABUS_CONCURRENCY must be a whole number (attempts at once), not a string",
        ),
        (
            {"DELTABUS_CONCURENCY": "5"},
            "unknown environment variable DELTABUS_CONCURENCY; did you mean DELTABUS_CONCURRENCY?",
        ),
        ({"DELTABUS_QUEUES": ","}, "environment variable DELTABUS_QUEUES must name at least one queue"),
    ],
)
def test_a_wrong_variable_is_named(environ, message):
    assert complaint(environ=environ) == message


def test_what_kubernetes_invents_for_a_service_called_deltabus_is_ignored():
    environ = {"DELTABUS_PORT": "tcp://10.0.0.1:80", "DELTABUS_SERVICE_HOST": "10.0.0.1", "DELTABUS_PORT_80_TCP": "x"}
    assert settings.load(environ=environ).concurrency == 100


def test_what_kubernetes_invents_for_a_service_called_deltabus_metrics_is_ignored():
    environ = {"DELTABUS_METRICS_PORT": "tcp://10.0.0.1:9100", "DELTABUS_METRICS_SERVICE_HOST": "10.0.0.1"}
    assert settings.load(environ=environ).metrics_port == 0
    assert settings.load(environ={"DELTABUS_METRICS_PORT": "9100"}).metrics_port == 9100


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("DELTABUS_METRICS_PORT", "99999", "must be a whole number (a TCP port) of at most 65535, not 99999"),
        ("DELTABUS_METRICS_HOST", " ", "must be an address such as 127.0.0.1, or 0.0.0.0 for all"),
        ("DELTABUS_STALL_AFTER", "-1", "must be a number (seconds) of at least 0, not -1.0"),
    ],
)
def test_where_metrics_cannot_be_served_is_said(variable, value, told):
    assert complaint(environ={variable: value}) == f"environment variable {variable} {told}"


@pytest.mark.parametrize("url", ["localhost:6379", "http://:hunter22@h", "redis://:hunter22@h:port/0", "redis://["])
def test_a_wrong_redis_url_is_refused_without_showing_it(url):
    told = complaint(environ={"DELTABUS_REDIS_URL": url})
    assert told.startswith("environment variable DELTABUS_REDIS_URL must be a URL such as redis://localhost:6379/0")
    assert "hunter22" not in told


@pytest.mark.parametrize("text", ["lease = 1" + "0" * 5000, "queues = " + "[" * 5000], ids=["digits", "nesting"])
def test_what_the_toml_parser_cannot_take_is_not_toml(config, text):
    assert "deltabus.toml: not TOML: " in complaint(config(text))


@pytest.mark.parametrize("name", ["concurrency", "lease"])
def test_a_number_that_no_timer_can_count_is_refused(config, name):
    digits = "1" + "0" * 400
    assert "of at most 9007199254740991" in complaint(config(f"{name} = {digits}"))
    if name == "concurrency":
        assert "of at most 9007199254740991" in complaint(None, {"DELTABUS_CONCURRENCY": digits})


def test_a_variable_that_is_not_utf8_is_refused(config):
    broken = b"p\xff".decode(errors="surrogateescape")  # as Python reads the environment
    for name in ("DELTABUS_REDIS_URL", "DELTABUS_REDIS_PASSWORD", "DELTABUS_QUEUES"):
        assert complaint(None, {name: broken}) == f"environment variable {name} is not UTF-8 text"
    assert "KEY is not UTF-8" in complaint(config('redis_url = "redis://:${KEY}@h"'), {"KEY": broken})
    for environ in ({"OPENAI_API_KEY": broken}, {"OPENAI_BASE_URL": f"http://h/{broken}"}):
        assert "is not UTF-8 text" in (settings.load(environ=environ).providers["openai"].problem or "")
    table = settings.load(config("[providers.acme]\napi_key = {env = 'KEY'}"), {"KEY": broken}).providers["acme"]
    assert "not UTF-8 text" in (table.problem or "")


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    assert complaint(tmp_path / "none.toml") == f"cannot read {tmp_path / 'none.toml'}: No such file or directory"
    named = str(tmp_path / "gone.toml")
    assert complaint(environ={"DELTABUS_CONFIG": named}) == f"cannot read {named}: No such file or directory"
    (tmp_path / "latin.toml").write_bytes(b"a = '\xe9'")
    assert complaint(tmp_path / "latin.toml") == f"{tmp_path / 'latin.toml'} is not UTF-8 text: byte 5 is not"


def test_a_file_may_begin_with_the_mark_that_windows_puts_there(tmp_path):
    (tmp_path / "marked.toml").write_bytes(b"\xef\xbb\xbfconcurrency = 7\r\n")
    assert settings.load(tmp_path / "marked.toml", environ={}).concurrency == 7


def test_settings_made_by_hand_are_checked_as_well():
    with pytest.raises(
        ConfigError, match=r"^`concurrency` must be a whole number \(attempts at once\) above 0, not 0$"
    ):
        Settings(concurrency=0)


def test_leases_that_run_out_before_they_are_renewed_are_refused():
    assert complaint(environ={"DELTABUS_LEASE": "2"}).startswith(
        "`heartbeat_interval` (3 s) must be below `lease` (2 s)"
    )


def test_describe_says_where_each_value_comes_from_and_masks_the_password(config):
    path = config("lease = 20\n")
    loaded = settings.load(path, {"REDIS_URL": "redis://u:hunter22@h:1/2", "DELTABUS_CONCURRENCY": "3"})
    lines = {line.name: line for line in loaded.describe()}
    assert lines["redis_url"] == ("redis_url", "redis://h:1/2", "REDIS_URL")
    assert lines["lease"] == ("lease", "20", str(path))
    assert lines["concurrency"] == ("concurrency", "3", "DELTABUS_CONCURRENCY")
    assert lines["queues"] == ("queues", "chat, file", "default")
    assert lines["providers.echo.plugin"] == ("providers.echo.plugin", "echo", "default")


@pytest.mark.parametrize("url", ["redis://:hunter22@h/0", "redis://h/0?password=hunter22", "redis://:hunter%322@h"])
def test_the_redis_password_is_a_secret_and_in_no_repr(url):
    loaded = Settings(redis_url=url)
    assert loaded.secrets == {"hunter22"}
    assert "hunter" not in repr(loaded) + loaded.redis_address + str(loaded.describe())


@pytest.mark.parametrize("named", [True, False])
def test_a_file_that_is_none_is_one_clear_error_and_never_waited_for(tmp_path, monkeypatch, named):
    monkeypatch.chdir(tmp_path)
    path = Path("deltabus.toml")
    given = path if named else None
    os.mkfifo(path)
    assert complaint(given) == "deltabus.toml is a pipe, not a file: name a file that can be read more than once"
    path.unlink()
    path.mkdir()
    assert complaint(given) == "cannot read deltabus.toml: Is a directory"
    path.rmdir()
    path.symlink_to("nowhere")
    assert complaint(given) == "cannot read deltabus.toml: No such file or directory"
    path.unlink()
    path.symlink_to("/dev/zero")
    assert complaint(given) == "deltabus.toml is a device, not a file: name a file that can be read more than once"


def test_the_null_device_is_a_file_without_settings():
    assert settings.load(Path(os.devnull), {}).concurrency == Settings().concurrency
