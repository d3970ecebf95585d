"""What holds for the repository as a whole, and no linter knows."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PACKAGES = [ROOT / package for package in PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]]
MODULES = sorted(module for package in PACKAGES for module in package.rglob("*.py"))

#: Lines that a module may have before it is two.
LONGEST_MODULE = 500
#: Modules that may touch the environment: the settings read it; the guard and the command line pass it on to the
#: processes they start; OpenTelemetry's own variables are read beside its SDK, which reads the others.
ENVIRONMENT = {
    "deltabus/settings/settings.py",
    "deltabus/guard.py",
    "deltabus/cli/worker.py",
    "deltabus/tracing/source.py",
}


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def tracked() -> list[Path]:
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [path for file in files.split("\0") if file and (path := ROOT / file).is_file()]


def test_no_file_names_a_folder_of_somebodys_machine() -> None:
    personal = re.compile(rb"(?<![\w.*$}])/(?:work|root|home/\w+|Users/\w+)/[\w.]")
    found = [
        f"{name(path)}:{number}"
        for path in tracked()
        for number, line in enumerate(path.read_bytes().splitlines(), 1)
        if personal.search(line)
    ]
    assert found == []


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_every_package_is_typed(package: Path) -> None:
    assert (package / "py.typed").is_file()


@pytest.mark.parametrize("root", ["worker", "plugins"])
def test_a_source_root_is_not_a_package(root: str) -> None:
    """A package called `worker` or `plugins` would shadow, or be shadowed by, a module of the service that uses us."""
    assert not (ROOT / root / "__init__.py").exists()


@pytest.mark.parametrize("module", MODULES, ids=name)
def test_a_module_says_first_what_it_is_and_is_short_enough_to_read(module: Path) -> None:
    source = module.read_text(encoding="utf-8")
    assert ast.get_docstring(ast.parse(source)), f"{name(module)} does not start with a docstring"
    assert len(source.splitlines()) <= LONGEST_MODULE


@pytest.mark.parametrize("script", sorted((ROOT / "worker").rglob("*.lua")), ids=name)
def test_a_script_starts_with_a_table_of_its_keys(script: Path) -> None:
    head = script.read_text(encoding="utf-8").split("\n\n")[0]
    assert all(line.startswith("--") for line in head.splitlines())
    assert "KEYS[1]" in head


def test_only_the_settings_read_the_environment() -> None:
    readers = {
        module.relative_to(package.parent).as_posix()
        for package in PACKAGES
        for module in package.rglob("*.py")
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in {"environ", "environb", "getenv"}
    }
    assert readers <= ENVIRONMENT


@pytest.mark.parametrize("group", sorted(PROJECT["project"]["entry-points"]))
def test_every_entry_point_leads_to_something(group: str) -> None:
    for target in PROJECT["project"]["entry-points"][group].values():
        module, _, attribute = target.partition(":")
        assert callable(getattr(importlib.import_module(module), attribute))


@pytest.mark.parametrize("module", ["deltabus", "deltabus.bus", "deltabus.provider"])
def test_what_producers_and_plugins_import_is_light(module: str) -> None:
    heavy = {"rq", "httpx", "aiohttp", "uvloop", "click", "rich", "deltabus.engine", "deltabus.worker"}
    code = f"import sys, {module}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert heavy.isdisjoint(loaded)


def test_a_worker_that_starts_loads_no_http_client_and_nothing_of_producers() -> None:
    later = {
        "aiohttp",
        "httpx",
        "fsspec",
        "yarl",
        "deltabus.http",
        "deltabus.depot.web",
        "deltabus.bus",
    }
    code = "import sys, deltabus.cli.worker, deltabus.worker; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert later.isdisjoint(loaded)


def test_the_front_door_opens_to_all_its_names() -> None:
    import deltabus

    assert deltabus.__all__ == sorted(deltabus.__all__)
    for public in deltabus.__all__:
        assert getattr(deltabus, public) is not None


def test_the_changelog_speaks_of_this_version() -> None:
    headings = re.findall(r"^## .*$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert PROJECT["project"]["version"] in headings[0]


def test_the_procfile_starts_a_command_that_exists() -> None:
    from click.testing import CliRunner

    from deltabus.cli import main

    process, _, command = (ROOT / "Procfile").read_text(encoding="utf-8").strip().partition(": ")
    program, *arguments = re.sub(r"\$\{\w+:-(\w+)\}", r"\1", command).split()
    assert (process, program) == ("worker", "deltabus")
    result = CliRunner().invoke(main, [*arguments, "--help"])
    assert result.exit_code == 0, result.output
