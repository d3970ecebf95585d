"""Provider tables: `[providers.NAME]`, `${NAME}` in them, and what stands in for them."""

from __future__ import annotations

from pathlib import Path

import pytest

from deltabus import settings
from deltabus.errors import ConfigError


@pytest.fixture
def load(tmp_path):
    """Load a deltabus.toml of that text."""

    def load(text: str, **environ: str) -> settings.Settings:
        path = Path(tmp_path, "deltabus.toml")
        path.write_text(text, encoding="utf-8")
        return settings.load(path, environ)

    return load


def test_tables_keep_their_order_and_hand_the_plugin_its_keys(load):
    loaded = load(
        """
        [providers.zeta]
        models = ["z-*", "gpt-4o"]
        base_url = "https://z.example/v1"
        timeout = 5

        [providers.acme]
        plugin = "openai"
        headers = {X-Team = "search"}
        """
    )
    assert list(loaded.providers) == ["zeta", "acme"]
    zeta, acme = loaded.providers.values()
    assert (zeta.plugin, zeta.models) == (None, ("z-*", "gpt-4o"))
    assert zeta.options == {"base_url": "https://z.example/v1", "timeout": 5}
    assert (acme.plugin, acme.models, acme.options) == ("openai", ("*",), {"headers": {"X-Team": "search"}})


def test_variables_are_replaced_wherever_a_string_is(load):
    provider = load(
        """
        [providers.acme]
        api_key = "${KEY}"
        headers = {Authorization = "Bearer ${KEY}", Price = "$$5"}
        hosts = ["${HOST}:1", "b"]
        retries = 3
        """,
        KEY="sk-12345678",
        HOST="a",
    ).providers["acme"]
    assert provider.problem is None
    assert provider.options == {
        "api_key": "sk-12345678",
        "headers": {"Authorization": "Bearer sk-12345678", "Price": "$5"},
        "hosts": ["a:1", "b"],
        "retries": 3,
    }


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("${ACME_KEY}", "environment variable ACME_KEY is not set"),
        ("${}", "`${}` is not the name of an environment variable (write `$$` for a plain `$`)"),
        ("${A B}", "`${A B}` is not the name of an environment variable (write `$$` for a plain `$`)"),
    ],
)
def test_a_variable_that_is_missing_is_that_providers_problem_alone(load, value, problem):
    loaded = load(f'[providers.acme]\napi_key = "{value}"\n[providers.echo]\n')
    told = loaded.providers["acme"].problem
    assert told is not None
    assert told.startswith("`api_key` of [providers.acme] in ")
    assert told.endswith(f"deltabus.toml: {problem}")
    assert loaded.providers["echo"].problem is None


def test_a_dollar_that_starts_nothing_is_a_dollar(load):
    options = load('[providers.a]\nx = "$5 $X ${Y} $"', Y="y").providers["a"].options
    assert options == {"x": "$5 $X y $"}


def test_openai_variables_make_a_provider_where_there_are_no_tables(load):
    environ = {
        "OPENAI_BASE_URL": "http://localhost:8080",
        "OPENAI_API_KEY": "sk-12345678",
        "OPENAI_ORGANIZATION": "org-b",
        "OPENAI_ORG_ID": "org-a",
        "OPENAI_PROJECT_ID": "proj",
    }
    for loaded in (load("concurrency = 5", **environ), settings.load(environ=environ)):
        assert list(loaded.providers) == ["openai"]
        provider = loaded.providers["openai"]
        assert (provider.plugin, provider.models, provider.problem) == ("openai", ("*",), None)
        assert provider.options == {
            "base_url": "http://localhost:8080",
            "api_key": "sk-12345678",
            "organization": "org-a",
            "project": "proj",
        }
        assert loaded.sources["providers.openai"] == "OPENAI_BASE_URL"


@pytest.mark.parametrize("variable", ["OPENAI_BASE_URL", "OPENAI_API_KEY"])
def test_either_address_or_key_is_enough(variable):
    assert list(settings.load(environ={variable: "x"}).providers) == ["openai"]


@pytest.mark.parametrize(
    ("variable", "provider"),
    [
        ("ANTHROPIC_API_KEY", "anthropic"),
        ("ANTHROPIC_BASE_URL", "anthropic"),
        ("GEMINI_API_KEY", "gemini"),
        ("GOOGLE_API_KEY", "gemini"),
    ],
)
def test_another_vendors_variable_makes_its_provider_which_gets_all_models(variable, provider):
    loaded = settings.load(environ={variable: "x"})
    assert [(each.name, each.plugin, each.models) for each in loaded.providers.values()] == [
        (provider, provider, ("*",))
    ]
    assert loaded.sources[f"providers.{provider}"] == variable


def test_several_vendors_share_the_models_and_openai_gets_the_rest():
    environ = {"OPENAI_API_KEY": "a", "ANTHROPIC_API_KEY": "b", "GEMINI_API_KEY": "c", "GOOGLE_API_KEY": "d"}
    loaded = settings.load(environ=environ)
    assert [(each.name, each.models) for each in loaded.providers.values()] == [
        ("anthropic", ("claude-*",)),
        ("gemini", ("gemini-*", "gemma-*")),
        ("openai", ("*",)),
    ]
    assert loaded.providers["gemini"].options == {"api_key": "c"}
    assert loaded.sources["providers.gemini"] == "GEMINI_API_KEY"


def test_a_server_of_ones_own_is_asked_for_all_models():
    environ = {"OPENAI_BASE_URL": "http://gateway", "ANTHROPIC_API_KEY": "b"}
    assert list(settings.load(environ=environ).providers) == ["openai", "anthropic"]


@pytest.mark.parametrize("environ", [{"OPENAI_ORG_ID": "org"}, {"OPENAI_API_KEY": ""}])
def test_without_address_and_key_there_is_echo(environ):
    assert list(settings.load(environ=environ).providers) == ["echo"]


def test_tables_keep_openai_variables_out(load):
    assert list(load("[providers.acme]", OPENAI_API_KEY="sk-12345678").providers) == ["acme"]


SECRETIVE = """
[providers.acme]
api_key = "literal-secret-1"
token = "${TOKEN}"
region = "${REGION}"
base_url = "https://user:literal-secret-2@acme.example/v1?key=q"
headers = {X-Custom = "literal-secret-3", X-Env = "Bearer ${TOKEN}"}
proxies = ["http://p.example", "http://[not a URL"]
tokens = ["literal-secret-4"]
timeout = 2.5
verify = false
"""


def test_secrets_are_found_wherever_they_are_written(load):
    loaded = load(SECRETIVE, TOKEN="secret-from-env", REGION="eu")
    found = loaded.providers["acme"].secrets
    assert found >= {"literal-secret-1", "literal-secret-2", "literal-secret-3", "literal-secret-4"}
    assert "secret-from-env" in found
    assert "eu" not in found, "too short to be told from a part of a word"
    assert loaded.secrets == found


def test_no_secret_is_in_a_repr_or_on_a_screen(load):
    loaded = load(SECRETIVE, TOKEN="secret-from-env", REGION="eu")
    assert "secret-" not in repr(loaded) + str(loaded.describe())


def test_a_screen_shows_which_variable_an_option_comes_from(load):
    loaded = load(SECRETIVE, TOKEN="secret-from-env", REGION="eu")
    prefix = "providers.acme."
    shown = {line.name.removeprefix(prefix): line.value for line in loaded.describe() if line.name.startswith(prefix)}
    assert shown == {
        "models": "*",
        "api_key": "***",
        "token": "${TOKEN}",
        "region": "${REGION}",
        "base_url": "https://acme.example/v1",
        "headers": "X-Custom=***, X-Env=Bearer ${TOKEN}",
        "proxies": "http://p.example, (not a URL)",
        "tokens": "***",
        "timeout": "2.5",
        "verify": "false",
    }


def test_a_wrong_table_does_not_show_the_value(load):
    with pytest.raises(ConfigError) as caught:
        load('[providers]\nacme = "sk-12345678"')
    assert "sk-" not in str(caught.value)
