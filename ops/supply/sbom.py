"""The bill of materials of a release, from its lock: `python -m supply.sbom > sbom.cdx.json`.

CycloneDX 1.6 (ECMA-424), JSON: every package with version, hashes, licence where it is installed here, and who needs
it. The same lock gives the same document.
"""

from __future__ import annotations

import json
import sys
import tomllib
import uuid
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Any, Final

from supply.lockfile import Pin, read

ROOT: Final = Path(__file__).resolve().parents[2]
LOCK: Final = ROOT / "ops" / "deploy" / "worker.lock"

#: Of the serial number: it names the content.
_NAMESPACE: Final = uuid.UUID("6f0e1f9c-3e0b-5d0e-9a4e-1d7f2d7c5a10")


def document(lock: Path = LOCK) -> dict[str, Any]:
    """The bill of materials."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pins = read(lock)
    name, version = project["name"], project["version"]
    main = {
        "type": "application",
        "bom-ref": _purl(name, version),
        "name": name,
        "version": version,
        "description": project["description"],
        "licenses": [{"expression": project["license"]}],
        "purl": _purl(name, version),
    }
    versions = {pin.name: pin.version for pin in pins} | {name: version}
    needs: dict[str, list[str]] = {_purl(*item): [] for item in versions.items()}
    for pin in pins:
        for parent in pin.parents:
            needs[_purl(parent, versions[parent])].append(_purl(pin.name, pin.version))
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": uuid.uuid5(_NAMESPACE, version + lock.read_text(encoding="utf-8")).urn,
        "version": 1,
        "metadata": {"component": main},
        "components": [_component(pin) for pin in pins],
        "dependencies": [{"ref": ref, "dependsOn": wanted} for ref, wanted in sorted(needs.items())],
    }


def _component(pin: Pin) -> dict[str, Any]:
    component: dict[str, Any] = {
        "type": "library",
        "bom-ref": _purl(pin.name, pin.version),
        "name": pin.name,
        "version": pin.version,
        "purl": _purl(pin.name, pin.version),
        "hashes": [{"alg": "SHA-256", "content": content} for content in pin.hashes],
    }
    if licence := _licence(pin):
        component["licenses"] = [{"expression": licence}]
    if pin.marker:
        component["properties"] = [{"name": "deltabus:marker", "value": pin.marker}]
    return component


def _licence(pin: Pin) -> str | None:
    """The SPDX expression of the package, where just that version is installed here and says it (PEP 639)."""
    try:
        installed = metadata(pin.name)
    except PackageNotFoundError:
        return None
    return installed["License-Expression"] if installed["Version"] == pin.version else None


def _purl(name: str, version: str) -> str:
    return f"pkg:pypi/{name}@{version}"


if __name__ == "__main__":
    json.dump(document(), sys.stdout, indent=2)
    print()
