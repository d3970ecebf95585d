"""The files of ops/deploy, by the tools of those who read them; `make tools` installs what is no part of the system."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from documents import ROOT
from processes import PATIENCE

from supply import sbom

DEPLOY = ROOT / "ops" / "deploy"
TOOLS = ROOT / ".cache" / "tools" / "bin"

#: Kubernetes' versions whose schemas the manifests fit: the oldest that has all their fields, and a new one.
VERSIONS = ("1.29", "1.34")

#: Above it, `systemd-analyze security` calls a service exposed: 0 is nothing, 10 is everything.
EXPOSURE = 2.0


def tool(name: str) -> str:
    """The path of a program, or a skip; an error where CI=true."""
    found = shutil.which(name, path=f"{TOOLS}{os.pathsep}{os.environ['PATH']}")
    if found is None:
        assert os.environ.get("CI") != "true", f"{name} is not installed: make tools"
        pytest.skip(f"{name} is not installed (make tools)")
    return found


def run(*words: str | Path) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_hadolint_has_nothing_against_the_dockerfile() -> None:
    assert run(tool("hadolint"), DEPLOY / "Dockerfile") == ""


@pytest.mark.parametrize("version", VERSIONS)
def test_the_manifests_are_what_kubernetes_takes(version: str) -> None:
    program = tool("kubernetes-validate")
    # KEDA's are no part of these schemas.
    manifests = [
        path for path in sorted((DEPLOY / "kubernetes" / "base").glob("*.yaml")) if path.name != "kustomization.yaml"
    ]
    assert len(manifests) == 5
    run(program, "--strict", "-k", version, *manifests)


def test_a_misspelt_field_would_be_found(tmp_path: Path) -> None:
    program = tool("kubernetes-validate")
    text = (DEPLOY / "kubernetes" / "base" / "deployment.yaml").read_text(encoding="utf-8")
    (tmp_path / "deployment.yaml").write_text(text.replace("readOnlyRootFilesystem", "readOnlyRootFileSystem"))
    with pytest.raises(AssertionError, match="readOnlyRootFileSystem"):
        run(program, "--strict", "-k", VERSIONS[0], tmp_path / "deployment.yaml")


@pytest.mark.parametrize("folder", ["base", "keda"])
def test_kubectl_builds_them(folder: str) -> None:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed")
    built = run(kubectl, "kustomize", DEPLOY / "kubernetes" / folder)
    assert built.count("\nkind: ") == (6 if folder == "base" else 8)
    assert ("replicas: 2" in built) == (folder == "base"), "KEDA decides how many there are"


def test_the_bill_of_materials_keeps_to_the_schema_of_cyclonedx(tmp_path: Path) -> None:
    if not TOOLS.exists():
        assert os.environ.get("CI") != "true", "make tools"
        pytest.skip("the library that has the schema is not installed (make tools)")
    check = [TOOLS / "python", DEPLOY / "sbom_schema.py", tmp_path / "sbom.json"]
    document = sbom.document()
    (tmp_path / "sbom.json").write_text(json.dumps(document))
    assert "CycloneDX 1.6" in run(*check)
    (tmp_path / "sbom.json").write_text(json.dumps({**document, "serialNumber": "one"}))
    with pytest.raises(AssertionError, match="urn:uuid"):
        run(*check)


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The units, with a program that is there."""
    for path in (DEPLOY / "systemd").glob("deltabus*"):
        text = path.read_text(encoding="utf-8").replace("/opt/deltabus/bin/deltabus", shutil.which("true") or "")
        (tmp_path / path.name).write_text(text)
    # An instance of the template: its file is one of its own here.
    shutil.copy(tmp_path / "deltabus-worker@.service", tmp_path / "deltabus-worker@1.service")
    return tmp_path


def test_systemd_understands_the_units(units: Path) -> None:
    verify = [tool("systemd-analyze"), "verify", "--man=no"]
    said = run(*verify, units / "deltabus-worker@1.service", units / "deltabus.target")
    assert "deltabus" not in said


def test_the_service_may_do_little(units: Path) -> None:
    analyze = [tool("systemd-analyze"), "security", "--no-pager", "--offline=true"]
    said = run(*analyze, f"--threshold={EXPOSURE * 10:g}", units / "deltabus-worker@1.service")
    assert "Overall exposure level" in said
