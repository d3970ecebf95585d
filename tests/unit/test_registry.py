"""Which provider serves a task, and what happens where it cannot be had."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from importlib.metadata import EntryPoint

import pytest

from deltabus import registry, settings
from deltabus.errors import ConfigError, UnknownProvider, Unsupported
from deltabus.provider import ChatRequest, Chunk, Completion, Provider
from deltabus.registry import Registry
from deltabus.settings import ProviderSettings, Settings


def configured(*providers: ProviderSettings) -> Registry:
    return Registry(Settings(providers={provider.name: provider for provider in providers}))


def echo(name: str, *models: str, **options: object) -> ProviderSettings:
    return ProviderSettings(name=name, plugin="echo", models=models or ("*",), options=options)


def routed(routes: Registry, model: str | None, provider: str | None = None) -> str:
    made = routes.resolve(provider, model)
    return next(name for name in routes.names if routes.provider(name) is made)


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a distribution of plugins, as pip would leave it, for this test."""

    def install(name: str, version: str, source: str, **entry_points: str) -> None:
        where = tmp_path / name
        info = where / f"{name}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        lines = "".join(f"{plugin} = {value}\n" for plugin, value in entry_points.items())
        (info / "entry_points.txt").write_text(f"[{registry.GROUP}]\n{lines}")
        (where / f"{name}.py").write_text(source)
        monkeypatch.syspath_prepend(where)

    yield install
    for name, module in list(sys.modules.items()):
        if (getattr(module, "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


PROVIDER = """
from deltabus.provider import ConfigError, Provider

class Acme(Provider):
    def __init__(self, name, settings):
        self.name, self.settings = name, settings
    async def chat(self, request):
        yield None
"""


def test_our_own_plugins_come_by_entry_point_like_anybodys():
    found = registry.plugins()
    assert {"openai", "echo"} <= found.keys()
    assert found["echo"].value == "deltabus_echo:EchoProvider"


def test_the_first_route_in_file_order_that_matches_the_model_wins():
    routes = configured(echo("a", "gpt-*", "o[13]"), echo("b", "gpt-4o", "claude-*"), echo("rest"))
    asked = ["gpt-4o", "o3", "o4", "claude-x", "GPT-4o", ""]
    assert [routed(routes, model) for model in asked] == ["a", "a", "rest", "b", "rest", "rest"]


def test_a_named_provider_serves_whatever_its_routes_say():
    routes = configured(echo("a", "gpt-*"), echo("b"))
    assert routed(routes, "claude-x", provider="a") == "a"


@pytest.mark.parametrize("model", [None, "default"])
def test_without_a_model_the_first_that_takes_all_serves(model):
    assert routed(configured(echo("a", "gpt-*"), echo("b"), echo("c")), model) == "b"


@pytest.mark.parametrize("model", [None, "default"])
def test_without_a_model_the_only_provider_serves(model):
    assert routed(configured(echo("a", "gpt-*")), model) == "a"


def test_without_a_model_and_a_choice_the_task_fails_and_says_how_to_mend_it():
    with pytest.raises(UnknownProvider, match=r"names no model, and no provider takes every model") as caught:
        configured(echo("a", "x"), echo("b", "y")).resolve(None, None)
    assert caught.value.param == "request.model"


def openai(name: str, *models: str, files: bool) -> ProviderSettings:
    table = {"base_url": "http://127.0.0.1:1", "capabilities": {"files": files}}
    return ProviderSettings(name=name, plugin="openai", models=models or ("*",), options=table)


@pytest.mark.parametrize("model", [None, "default"])
def test_files_are_for_the_first_that_takes_all_and_has_some(model):
    some = openai("named", "gpt-*", files=True), echo("chats"), openai("shelf", files=True), openai("more", files=True)
    assert configured(*some).choose(None, model, files=True) == "shelf"


def test_files_of_a_named_provider_or_of_a_model_are_that_providers():
    routes = configured(echo("chats"), openai("shelf", files=True), openai("gpt", "gpt-*", files=False))
    assert routes.choose("chats", None, files=True) == "chats"
    assert configured(openai("gpt", "gpt-*", files=False), openai("shelf", files=True)).choose(
        None, "gpt-4o", files=True
    ) == ("gpt")


def test_without_files_those_that_were_tried_are_named():
    with pytest.raises(
        Unsupported, match=r"has files; tried `chats`, `more`: name one that has in `provider`"
    ) as caught:
        configured(echo("chats"), openai("shelf", "o3", files=True), openai("more", files=False)).choose(
            None, None, files=True
        )
    assert caught.value.param == "provider"


def test_an_unknown_provider_is_told_the_nearest_name():
    with pytest.raises(UnknownProvider) as caught:
        configured(echo("acme-eu"), echo("local")).resolve("acme", "m")
    assert caught.value.message == "no provider `acme` is configured; did you mean `acme-eu`?"
    assert caught.value.param == "provider"


def test_an_unknown_provider_that_is_near_to_none_is_told_all():
    with pytest.raises(ConfigError, match=r"no provider `zz` is configured; there are: acme, local$"):
        configured(echo("acme"), echo("local")).provider("zz")


def test_a_model_without_a_route_is_told_the_routes():
    with pytest.raises(UnknownProvider) as caught:
        configured(echo("a", "gpt-*"), ProviderSettings(name="b", models=())).resolve(None, "claude")
    assert caught.value.message == "no provider takes the model `claude`; configured are a: gpt-*; b: by name only"
    assert caught.value.param == "request.model"


def test_nothing_configured_is_an_error_not_a_crash():
    with pytest.raises(UnknownProvider, match="configured are none"):
        Registry(Settings()).resolve(None, "m")


def test_a_provider_is_made_once_and_only_when_asked_for():
    routes = configured(echo("a"), ProviderSettings(name="b", plugin="nowhere"))
    assert routes.resolve("a", None) is routes.provider("a")


def test_the_plugin_is_the_one_called_like_the_provider_or_else_openai(install):
    install("acme_plugin", "1.0", PROVIDER, acme="acme_plugin:Acme")
    routes = configured(ProviderSettings(name="acme", options={"x": 1}), ProviderSettings(name="other", plugin="acme"))
    made = routes.provider("acme")
    assert (type(made).__name__, made.name, made.settings) == ("Acme", "acme", {"x": 1})
    assert routes.provider("other").name == "other"
    assert registry.plugin_of(ProviderSettings(name="elsewhere")) == "openai"


def test_a_plugin_that_is_not_installed_is_told_the_nearest():
    with pytest.raises(ConfigError) as caught:
        configured(ProviderSettings(name="a", plugin="ecko")).provider("a")
    assert str(caught.value) == "provider `a` wants the plugin `ecko`, which is not installed; did you mean `echo`?"


def test_a_provider_whose_variable_is_not_set_is_that_tasks_error(tmp_path):
    path = tmp_path / "deltabus.toml"
    path.write_text('[providers.acme]\nplugin = "echo"\ntext = "${ACME_TEXT}"\n[providers.echo]\n')
    routes = Registry(settings.load(path, {}))
    with pytest.raises(UnknownProvider, match="environment variable ACME_TEXT is not set") as caught:
        routes.resolve("acme", None)
    assert caught.value.provider == "acme"
    assert routes.resolve("echo", None)


BROKEN = {
    "import": ("raise RuntimeError('no GPU')", "cannot be loaded: RuntimeError: no GPU"),
    "missing": (
        "import surely_not_installed",
        "cannot be loaded: ModuleNotFoundError: No module named 'surely_not_inst",
    ),
    "exit": ("raise SystemExit(3)", "cannot be loaded: SystemExit: 3"),
    "syntax": ("def (", "cannot be loaded: SyntaxError: "),
    "absent": ("", "cannot be loaded: AttributeError: module 'bad' has no attribute 'Acme'"),
    "function": ("def Acme(): ...", "is not a class but a function"),
    "stranger": ("class Acme: ...", "is not a subclass of deltabus.provider.Provider"),
    "abstract": (
        "from deltabus.provider import Provider\nclass Acme(Provider): ...",
        "does not define __init__, chat",
    ),
}


@pytest.mark.parametrize(("source", "told"), BROKEN.values(), ids=BROKEN)
def test_a_broken_plugin_is_named_with_its_origin_and_hurts_only_itself(install, source, told):
    install("bad", "0.9", source, acme="bad:Acme")
    routes = configured(ProviderSettings(name="acme"), echo("echo"))
    for _ in range(2):
        with pytest.raises(UnknownProvider) as caught:
            routes.resolve("acme", None)
        assert caught.value.message.startswith(f"plugin `acme` (bad:Acme, from bad 0.9) {told}")
        assert caught.value.provider == "acme"
    assert routes.resolve("echo", None)


def test_a_broken_plugin_is_not_imported_for_every_task(install):
    install("bad", "0.9", "import sys\nsys.counted = getattr(sys, 'counted', 0) + 1\nraise RuntimeError", acme="bad:A")
    routes = configured(ProviderSettings(name="acme"))
    for _ in range(3):
        with pytest.raises(ConfigError):
            routes.provider("acme")
    assert sys.__dict__.pop("counted") == 1


def test_a_plugin_of_a_distribution_without_a_name_is_loaded_all_the_same(monkeypatch):
    entry = EntryPoint(name="acme", value="deltabus_nowhere:Acme", group=registry.GROUP)
    monkeypatch.setattr(registry, "_installed", lambda: {"acme": [entry]})
    with pytest.raises(
        ConfigError, match=r"^plugin `acme` \(deltabus_nowhere:Acme, from an unnamed distribution\) cannot"
    ):
        configured(ProviderSettings(name="acme")).provider("acme")


def test_two_distributions_with_one_plugin_name_are_both_named(install):
    install("one", "1.0", PROVIDER, acme="one:Acme")
    install("two", "2.0", PROVIDER, acme="two:Acme")
    with pytest.raises(ConfigError) as caught:
        configured(ProviderSettings(name="acme")).provider("acme")
    told = str(caught.value)
    assert told.startswith("plugin `acme` is registered by ")
    assert "one 1.0 (one:Acme)" in told
    assert "two 2.0 (two:Acme)" in told


def test_settings_that_a_plugin_refuses_are_named_with_their_table():
    with pytest.raises(ConfigError) as caught:
        configured(echo("slow", intervall=1)).provider("slow")
    assert str(caught.value) == "[providers.slow]: `intervall`: unknown key; did you mean `interval`?"


def test_an_unforeseen_error_of_a_plugin_shows_no_secret(install):
    source = PROVIDER.replace("self.name, self.settings = name, settings", "raise ValueError(f'bad: {settings}')")
    install("leaky", "1.0", source, acme="leaky:Acme")
    acme = ProviderSettings(name="acme", options={"api_key": "sk-12345678"}, secrets=frozenset({"sk-12345678"}))
    with pytest.raises(ConfigError) as caught:
        configured(acme).provider("acme")
    assert str(caught.value) == (
        "provider `acme`: plugin `acme` (leaky:Acme, from leaky 1.0) failed: ValueError: bad: {'api_key': '***'}"
    )


class Closing(Provider):
    def __init__(self, name: str, settings: object) -> None:
        self.name = name

    def chat(self, request: ChatRequest) -> AsyncIterator[Chunk | Completion]:
        raise NotImplementedError

    async def aclose(self) -> None:
        CLOSED.append(self.name)
        if self.name == "bad":
            raise OSError("cannot close")


CLOSED: list[str] = []


def test_closing_closes_each_that_was_made_even_if_one_fails(monkeypatch, run):
    CLOSED.clear()
    monkeypatch.setattr(registry, "_load", lambda _: (Closing, "plugin"))
    routes = configured(echo("good"), echo("bad"), echo("unused"))
    routes.provider("good")
    routes.provider("bad")
    with pytest.raises(ExceptionGroup, match="providers failed to close"):
        run(routes.aclose())
    assert sorted(CLOSED) == ["bad", "good"]
    run(routes.aclose())
    assert len(CLOSED) == 2, "a provider is closed once"
