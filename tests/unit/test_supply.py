"""What a release installs: the lock fits pyproject.toml and lacks nothing, and its bill of materials is complete."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from supply import audit, lockfile, sbom

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LOCKS = {name: lockfile.read(ROOT / "ops" / "deploy" / f"{name}.lock") for name in ("worker", "build")}


def extras() -> list[str]:
    """Those that the Makefile locks."""
    line = re.search(r"^LOCKED_EXTRAS :=(.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert line is not None
    return line[1].split()


def wanted() -> dict[str, list[Requirement]]:
    """What each lock is made from."""
    project = PROJECT["project"]
    optional = [text for extra in extras() for text in project["optional-dependencies"][extra]]
    return {
        "worker": [Requirement(text) for text in [*project["dependencies"], *optional]],
        "build": [Requirement(text) for text in PROJECT["build-system"]["requires"]],
    }


@pytest.mark.parametrize("name", LOCKS)
def test_the_lock_fits_what_pyproject_asks_for(name: str) -> None:
    pinned = {pin.name: pin.version for pin in LOCKS[name]}
    for requirement in wanted()[name]:
        assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), requirement


def test_the_lock_lacks_nothing_that_is_needed_here() -> None:
    pinned = {pin.name: pin.version for pin in LOCKS["worker"]}
    todo = [(requirement, extra) for requirement in wanted()["worker"] for extra in ("", *requirement.extras)]
    seen = set()
    looked = 0
    while todo:
        requirement, extra = todo.pop()
        name = canonicalize_name(requirement.name)
        if (name, extra) in seen or not (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
            continue
        seen.add((name, extra))
        assert name in pinned, f"{requirement} is not in the lock: make lock"
        assert requirement.specifier.contains(pinned[name]), f"{requirement}, but {pinned[name]} is locked: make lock"
        try:
            if version(name) != pinned[name]:
                continue  # What another version needs says nothing.
        except PackageNotFoundError:
            continue
        looked += 1
        for needed in map(Requirement, requires(name) or []):
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                todo += [(Requirement(str(needed).partition(";")[0]), more) for more in ("", *needed.extras)]
    assert looked or not pinned


@pytest.mark.parametrize("name", LOCKS)
def test_every_package_is_pinned_by_hash_and_none_by_address(name: str) -> None:
    assert LOCKS[name]
    assert [pin.name for pin in LOCKS[name] if not pin.hashes] == []
    text = (ROOT / "ops" / "deploy" / f"{name}.lock").read_text(encoding="utf-8")
    assert "://" not in text
    assert "--index" not in text


def test_a_line_that_make_lock_does_not_write_is_told(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    path.write_text("# head\nclick==8.0 \\\n    --hash=md5:12\n")
    with pytest.raises(ValueError, match=r"x\.lock:3: not a line of a lock file"):
        lockfile.read(path)


def test_the_bill_of_materials_names_everything_and_who_needs_it() -> None:
    document = sbom.document()
    assert json.dumps(document) == json.dumps(sbom.document())
    assert {part["name"]: part["version"] for part in document["components"]} == {
        pin.name: pin.version for pin in LOCKS["worker"]
    }
    needs = {item["ref"]: item["dependsOn"] for item in document["dependencies"]}
    refs = {part["bom-ref"] for part in document["components"]}
    main = document["metadata"]["component"]["bom-ref"]
    assert set(needs) == refs | {main}
    names = {canonicalize_name(requirement.name) for requirement in wanted()["worker"]}
    assert {ref.split("/")[1].split("@")[0] for ref in needs[main]} == names
    reached, todo = set(), [main]
    while todo:
        ref = todo.pop()
        if ref not in reached:
            reached.add(ref)
            todo += needs[ref]
    assert reached == refs | {main}


def answer(monkeypatch: pytest.MonkeyPatch, stdout: str, stderr: str = "", code: int = 0) -> None:
    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        assert "--require-hashes" in command
        return subprocess.CompletedProcess(command, code, stdout, stderr)

    monkeypatch.setattr(subprocess, "run", run)


def test_an_audit_that_was_done_says_so(monkeypatch, capsys) -> None:
    answer(monkeypatch, json.dumps({"dependencies": [{"name": "a", "version": "1", "vulns": []}]}))
    assert audit.main(["pip-audit"]) == 0
    assert "1 packages, 0 known vulnerabilities" in capsys.readouterr().out


def test_an_audit_that_finds_something_names_it_and_the_fix(monkeypatch, capsys) -> None:
    package = {"name": "a", "version": "1", "vulns": [{"id": "PYSEC-1", "fix_versions": ["1.1"]}]}
    answer(monkeypatch, json.dumps({"dependencies": [package]}), code=1)
    assert audit.main(["pip-audit"]) == audit.KNOWN
    assert "a 1: PYSEC-1; mended in 1.1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("stdout", "stderr"),
    [
        ("", "Traceback …\nConnectionError: cannot resolve"),
        ("{}", ""),
        ('{"dependencies": []}', ""),
        ('{"dependencies": [{"name": "a", "skip_reason": "Dependency not found"}]}', ""),
    ],
)
def test_an_audit_that_could_not_be_done_is_no_clean_bill(monkeypatch, capsys, stdout, stderr) -> None:
    answer(monkeypatch, stdout, stderr)
    assert audit.main(["pip-audit"]) == audit.NOT_ASKED
    assert "audit: NOT DONE" in capsys.readouterr().err
