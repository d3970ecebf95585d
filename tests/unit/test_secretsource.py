"""Secrets that stand in a variable, a file, or in what a command prints."""

from __future__ import annotations

import os
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from deltabus import logs, settings
from deltabus.errors import ConfigError

SECRET = "sk-very-secret-0123456789"


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Load a deltabus.toml of that text."""
    monkeypatch.chdir(tmp_path)

    def load(text: str = "", *, run_commands: bool = True, **environ: str) -> settings.Settings:
        path = tmp_path / "deltabus.toml"
        path.write_text(text, encoding="utf-8")
        return settings.load(path, environ, run_commands=run_commands)

    return load


def provider(loaded: settings.Settings):
    return loaded.providers["acme"]


def printing(text: str, *, code: int = 0) -> str:
    """A command, as a TOML list, that prints something to both outputs and exits."""
    program = f"import sys; print({text!r}); print({text!r}, file=sys.stderr); sys.exit({code})"
    return str([sys.executable, "-c", program])


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_a_file_gives_what_is_in_it_without_the_last_line_end(load, tmp_path, end):
    (tmp_path / "key").write_bytes((SECRET + end).encode())
    for name in ("key", str(tmp_path / "key"), "${FOLDER}/key"):
        loaded = load(f'[providers.acme]\napi_key = {{file = "{name}"}}', FOLDER=str(tmp_path))
        assert provider(loaded).problem is None
        assert provider(loaded).options == {"api_key": SECRET}


@pytest.mark.parametrize(
    "missing", ['{file = "/nowhere/key"}', '{env = "NOWHERE_KEY"}', '{command = ["/nowhere/key"]}']
)
def test_where_a_secret_was_looked_for_in_vain_is_said_and_no_secret(load, missing):
    loaded = load(f"[providers.acme]\napi_key = {missing}\nheaders = {{file = 'a-secret-header', env = 'another-one'}}")
    assert re.search("/nowhere/key|NOWHERE_KEY", provider(loaded).problem)
    assert loaded.secrets == {"a-secret-header", "another-one"}


def test_a_relative_path_starts_at_the_folder_of_the_configuration(load, tmp_path, monkeypatch):
    (tmp_path / "key").write_text(SECRET)
    monkeypatch.chdir("/")
    assert provider(load('[providers.acme]\napi_key = {file = "key"}')).options == {"api_key": SECRET}


def test_a_command_gives_what_it_prints_to_standard_output_and_sees_the_environment(load):
    program = "import os, sys; print(os.environ['VAULT'] + '/' + sys.argv[1])"
    words = str([sys.executable, "-c", program, "${VAULT}"])
    loaded = load(f"[providers.acme]\napi_key = {{command = {words}}}", VAULT="abc")
    assert provider(loaded).options == {"api_key": "abc/${VAULT}"}, "words are passed on as they are"


def test_a_variable_gives_its_value(load):
    assert provider(load('[providers.acme]\napi_key = {env = "KEY"}', KEY=SECRET)).options == {"api_key": SECRET}


def test_headers_take_them_one_by_one_and_what_is_sent_takes_none(load):
    loaded = load(
        """
        [providers.acme]
        headers = {X-Key = {env = "KEY"}, X-Team = "search"}
        query = {env = "prod"}
        params = {metadata = {env = "prod"}}
        hosts = [{env = "KEY"}, "b"]
        timeouts = {connect = 1}
        """,
        KEY=SECRET,
    )
    assert provider(loaded).options == {
        "headers": {"X-Key": SECRET, "X-Team": "search"},
        "query": {"env": "prod"},
        "params": {"metadata": {"env": "prod"}},
        "hosts": [SECRET, "b"],
        "timeouts": {"connect": 1},
    }


@pytest.mark.parametrize(
    ("reference", "told"),
    [
        ('{file = "gone"}', "cannot read {folder}/gone: No such file or directory"),
        ('{file = "a\\u0000b"}', "'a\\x00b' is not the path of a file"),
        ('{file = "~nobody-of-that-name/key"}', "'~nobody-of-that-name/key' is not the path of a file"),
        ('{file = "."}', "cannot read {folder}: Is a directory"),
        ('{file = "empty"}', "{folder}/empty is empty"),
        ('{file = "binary"}', "{folder}/binary: not UTF-8 text"),
        ('{file = "large"}', "{folder}/large: over 64 KiB, which no secret is"),
        ('{file = "${NOWHERE}/key"}', "environment variable NOWHERE is not set"),
        ("{file = 1}", "`file` must be a string, not the number 1"),
        ('{env = "NOWHERE"}', "environment variable NOWHERE is not set"),
        ('{env = "EMPTY"}', "environment variable EMPTY is empty"),
        ("{command = []}", '`command` must be a list of words such as ["pass", "show", "acme"], not a list'),
        ('{command = "pass show"}', '`command` must be a list of words such as ["pass", "show", "acme"], not a string'),
        ('{command = ["no-such-program"]}', "the command no-such-program cannot be started: No such file or directory"),
        (
            f"{{command = {printing(SECRET, code=7)}}}",
            f"the command {sys.executable} failed with exit code 7; run it by hand to see why",
        ),
        (f"{{command = {printing('')}}}", f"the command {sys.executable} is empty"),
    ],
)
def test_what_gives_no_secret_is_that_providers_problem_and_shows_nothing(load, tmp_path, reference, told):
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(SECRET.encode() + b"\xff")
    (tmp_path / "large").write_text(SECRET * 10_000)
    loaded = load(f"[providers.acme]\napi_key = {reference}\n[providers.echo]", EMPTY="")
    problem = provider(loaded).problem
    assert problem == f"`api_key` of [providers.acme] in {tmp_path}/deltabus.toml: " + told.format(
        folder=tmp_path, NOWHERE="${NOWHERE}"
    )
    assert SECRET not in problem
    assert loaded.providers["echo"].problem is None


def test_a_command_that_hangs_is_given_up(load, monkeypatch):
    monkeypatch.setattr("deltabus.settings.secretsource.COMMAND_TIMEOUT", 0.2)
    words = str([sys.executable, "-c", f"import sys, time; print({SECRET!r}, flush=True); time.sleep(60)"])
    problem = provider(load(f"[providers.acme]\napi_key = {{command = {words}}}")).problem
    assert problem is not None
    assert problem.endswith("was not done after 0.2 s; it gets no input")


def test_a_pipe_into_which_nobody_writes_or_that_nobody_ends_is_given_up(load, tmp_path, monkeypatch):
    monkeypatch.setattr("deltabus.settings.secretsource.COMMAND_TIMEOUT", 0.2)
    os.mkfifo(tmp_path / "pipe")
    text = '[providers.acme]\napi_key = {file = "pipe"}'
    told = f"{tmp_path}/pipe is a pipe, and nobody wrote a secret into it within 0.2 s"
    problem = provider(load(text)).problem
    assert problem is not None
    assert problem.endswith(told)
    writer = os.open(tmp_path / "pipe", os.O_RDWR)
    os.write(writer, SECRET.encode())
    problem = provider(load(text)).problem
    os.close(writer)
    assert problem is not None
    assert problem.endswith(told)
    assert SECRET not in problem


def test_a_pipe_gives_what_is_written_into_it_also_in_pieces_and_late(load, tmp_path):
    os.mkfifo(tmp_path / "pipe")

    def write() -> None:
        with (tmp_path / "pipe").open("wb", buffering=0) as pipe:  # once it is read
            pipe.write(SECRET[:5].encode())
            pipe.write(SECRET[5:].encode() + b"\n")

    with ThreadPoolExecutor() as pool:
        writing = pool.submit(write)
        assert provider(load('[providers.acme]\napi_key = {file = "pipe"}')).options == {"api_key": SECRET}
        writing.result()


def test_a_shells_process_substitution_and_links_as_in_kubernetes_are_files_too(load, tmp_path):
    reading, writing = os.pipe()
    os.write(writing, SECRET.encode() + b"\n")
    os.close(writing)
    text = '[providers.acme]\napi_key = {{file = "{}"}}'
    assert provider(load(text.format(f"/dev/fd/{reading}"))).options == {"api_key": SECRET}
    os.close(reading)
    (tmp_path / "..data").mkdir()
    (tmp_path / "..data" / "key").write_text(SECRET)
    (tmp_path / "key").symlink_to("..data/key")
    assert provider(load(text.format("key"))).options == {"api_key": SECRET}


def test_no_error_holds_what_was_read_in_its_chain(load, tmp_path):
    (tmp_path / "url").write_bytes(SECRET.encode() + b"\xff")
    with pytest.raises(ConfigError) as caught:
        load('redis_url = {file = "url"}')
    chain: BaseException | None = caught.value
    while chain is not None:
        assert SECRET not in f"{chain} {vars(chain)} {chain.args}"
        assert not isinstance(chain, UnicodeDecodeError), "it has the bytes"
        chain = chain.__cause__


def test_producers_run_no_commands(load, tmp_path):
    marker = tmp_path / "ran"
    words = str([sys.executable, "-c", f"open({str(marker)!r}, 'w')"])
    loaded = load(f"[providers.acme]\napi_key = {{command = {words}}}", run_commands=False)
    assert provider(loaded).problem == (
        f"`api_key` of [providers.acme] in {tmp_path}/deltabus.toml: "
        f"the command {sys.executable} is not run: only workers run such commands"
    )
    assert not marker.exists()


def test_a_file_that_only_lies_about_runs_no_commands_unless_it_is_ones_own(load, tmp_path, monkeypatch):
    text = f"redis_url = {{command = {printing('redis://h')}}}"
    load(text)
    path = tmp_path / "deltabus.toml"
    assert settings.load(environ={}).redis_url == "redis://h", "it is in the working directory, and one's own"
    path.chmod(0o646)
    with pytest.raises(
        ConfigError, match=r"is not run: deltabus\.toml was only found in the working directory, and may be"
    ):
        settings.load(environ={})
    path.chmod(0o644)
    monkeypatch.setattr("os.geteuid", lambda: 4711)
    monkeypatch.setattr("deltabus.settings.configfile.TRUSTED", frozenset())
    with pytest.raises(ConfigError, match="and belongs to another user; if it is yours, name it"):
        settings.load(environ={})
    assert settings.load(path, {}).redis_url == "redis://h"
    assert settings.load(environ={"DELTABUS_CONFIG": str(path)}).redis_url == "redis://h"


def test_what_stands_elsewhere_is_masked_in_logs_and_shown_by_its_place(load, tmp_path, capsys):
    (tmp_path / "key").write_text(SECRET)
    loaded = load(
        f"""
        [providers.acme]
        api_key = {{file = "key"}}
        token = {{command = {printing("printed-secret")}}}
        password = {{env = "PASSWORD"}}
        headers = {{X-Region = {{env = "PASSWORD"}}}}
        """,
        PASSWORD="secret-of-env",
    )
    assert provider(loaded).secrets == {SECRET, "printed-secret", "secret-of-env"}
    shown = {line.name.removeprefix("providers.acme."): line.value for line in loaded.describe()}
    assert shown["api_key"] == "file key"
    assert shown["token"] == f"what {sys.executable} prints"
    assert shown["password"] == "${PASSWORD}"
    assert shown["headers"] == "X-Region=${PASSWORD}"
    assert "secret-of" not in repr(loaded) + str(loaded.describe())
    logs.configure(loaded)
    logs.logging.getLogger("x").error("it is %s, or printed-secret", SECRET)
    assert "it is ***, or ***" in capsys.readouterr().err


def test_a_file_that_is_replaced_is_found_by_the_next_process(load, tmp_path):
    (tmp_path / "key").write_text("old-secret-1")
    text = '[providers.acme]\napi_key = {file = "key"}'
    assert provider(load(text)).options == {"api_key": "old-secret-1"}
    (tmp_path / "key").write_text("new-secret-2")
    assert provider(load(text)).options == {"api_key": "new-secret-2"}


@pytest.mark.parametrize(
    ("url", "whole"),
    [
        ("redis://h:1/2", "redis://:p%40ss%2F@h:1/2"),
        ("rediss://worker@h/0?ssl_ca_certs=/x", "rediss://worker:p%40ss%2F@h/0?ssl_ca_certs=/x"),
        ("unix:///run/redis.sock?db=1", "unix://:p%40ss%2F@/run/redis.sock?db=1"),
    ],
)
def test_the_password_of_redis_may_stand_alone(load, tmp_path, url, whole):
    (tmp_path / "password").write_text("p@ss/\n")
    of_file = load(f'redis_url = "{url}"\nredis_password = {{file = "password"}}')
    of_environ = load(DELTABUS_REDIS_URL=url, DELTABUS_REDIS_PASSWORD_FILE=str(tmp_path / "password"))
    both = load(f'redis_url = "{url}"', DELTABUS_REDIS_PASSWORD="p@ss/")
    assert of_file.redis_url == of_environ.redis_url == both.redis_url == whole
    assert of_file.secrets == {"p@ss/"}


def test_the_password_of_redis_reaches_it(load):
    from redis.connection import parse_url

    loaded = load(DELTABUS_REDIS_URL="redis://worker@h", DELTABUS_REDIS_PASSWORD="p@ss:/?#[]%")
    parsed = parse_url(loaded.redis_url)
    assert (parsed["username"], parsed["password"], parsed["host"]) == ("worker", "p@ss:/?#[]%", "h")


def test_the_address_of_redis_may_stand_in_a_file_that_a_variable_names(load, tmp_path):
    (tmp_path / "url").write_text("rediss://:hunter22@h:1/2\n")
    loaded = load(DELTABUS_REDIS_URL_FILE=str(tmp_path / "url"), REDIS_URL="redis://platform")
    assert loaded.redis_url == "rediss://:hunter22@h:1/2"
    line = next(line for line in loaded.describe() if line.name == "redis_url")
    assert (line.value, line.source) == ("rediss://h:1/2", "DELTABUS_REDIS_URL_FILE")


def test_address_and_password_may_come_by_different_ways(load, tmp_path):
    (tmp_path / "url").write_text("redis://h")
    loaded = load(DELTABUS_REDIS_URL_FILE=str(tmp_path / "url"), DELTABUS_REDIS_PASSWORD="hunter22")
    assert loaded.redis_url == "redis://:hunter22@h"


def test_the_password_of_the_file_is_not_sent_to_a_server_that_the_environment_names(load):
    assert load('redis_password = "x"', REDIS_URL="redis://other").redis_url == "redis://other"


@pytest.mark.parametrize(
    ("text", "environ", "told"),
    [
        (
            "",
            {"DELTABUS_REDIS_URL": "redis://a", "DELTABUS_REDIS_URL_FILE": "b"},
            "DELTABUS_REDIS_URL and DELTABUS_REDIS_URL_FILE both set `redis_url`: keep one of them",
        ),
        (
            "",
            {"DELTABUS_REDIS_URL": "redis://:hunter22@a", "DELTABUS_REDIS_PASSWORD": "hunter33"},
            "the Redis URL has a password, and `redis_password` (DELTABUS_REDIS_PASSWORD) is another: keep one of them",
        ),
        (
            "",
            {"DELTABUS_REDIS_URL_FILE": "gone"},
            "environment variable DELTABUS_REDIS_URL_FILE: cannot read gone: No such file or directory",
        ),
        (
            "",
            {"DELTABUS_REDIS_PASSWORD_FIEL": "x"},
            "unknown environment variable DELTABUS_REDIS_PASSWORD_FIEL; did you mean DELTABUS_REDIS_PASSWORD_FILE?",
        ),
        (
            'redis_passwrod = "x"',
            {},
            "unknown key `redis_passwrod` in {file}; did you mean `redis_password`?",
        ),
        (
            "redis_password = 5",
            {},
            "`redis_password` in {file} must be a string, not the number 5",
        ),
        (
            'redis_url = {command = ["false"]}',
            {},
            "`redis_url` in {file}: the command false failed with exit code 1; run it by hand to see why",
        ),
    ],
)
def test_what_is_wrong_with_the_address_of_redis_is_said_at_once(load, tmp_path, text, environ, told):
    with pytest.raises(ConfigError) as caught:
        load(text, **environ)
    assert str(caught.value) == told.format(file=tmp_path / "deltabus.toml")


def test_a_vendors_key_may_stand_in_a_file_that_a_variable_names(load, tmp_path):
    (tmp_path / "key").write_text(SECRET)
    loaded = load(OPENAI_API_KEY_FILE=str(tmp_path / "key"), OPENAI_BASE_URL="http://gateway/v1")
    assert list(loaded.providers) == ["openai"]
    assert loaded.providers["openai"].options == {"api_key": SECRET, "base_url": "http://gateway/v1"}
    assert SECRET in loaded.secrets
    assert SECRET not in str(loaded.describe())


def test_a_file_that_may_not_be_read_says_how_to_mend_it(load, tmp_path, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ConfigError, match=r"may not read .*: give it to the user that runs this"):
        settings.load(environ={"DELTABUS_REDIS_URL_FILE": str(tmp_path / "url")})
