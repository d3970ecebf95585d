"""deltabus and its peers in environments of their own, so that nobody's dependencies are another's."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Final

#: The programs of the peers, and what they need.
PEERS: Final = Path(__file__).resolve().parents[1] / "peers"

_SOURCES: Final = Path(__file__).resolve().parents[3]

_ROOT: Final = _SOURCES / ".cache" / "peers"

#: Packages whose versions the report names, besides those that a requirement names.
_NAMED: Final = frozenset({"aiohttp", "hiredis", "httpx", "openai", "redis", "uvloop"})


class NotInstalled(Exception):
    """The peer cannot be installed here; the message says why."""


@cache
def python(name: str) -> Path:
    """The interpreter of the peer's environment, which is made where it is missing or has other requirements.

    Raises:
        NotInstalled: pip could not; it is not asked twice in a run.
    """
    requirements = PEERS / "requirements" / f"{name}.txt"
    folder = _ROOT / name
    stamp = folder / ".installed"
    wanted = requirements.read_bytes()
    if name == "deltabus":  # what it needs stands with it
        wanted += (_SOURCES / "pyproject.toml").read_bytes()
    digest = hashlib.sha256(wanted).hexdigest()
    program = folder / "bin" / "python"
    if stamp.exists() and stamp.read_text(encoding="ascii") == digest:
        return program
    print(f"installing {name} into {folder.relative_to(_SOURCES)}; this is done once", file=sys.stderr)
    pip = [str(program), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
    try:
        for command in ([sys.executable, "-m", "venv", "--clear", str(folder)], [*pip, "-r", str(requirements)]):
            subprocess.run(command, check=True, capture_output=True, text=True, cwd=_SOURCES)  # noqa: S603 # our own
    except subprocess.CalledProcessError as exc:
        said = [line for line in exc.stderr.splitlines() if "ERROR" in line] or ["it did not say why"]
        raise NotInstalled(f"{name} could not be installed: {said[0]}") from exc
    stamp.write_text(digest, encoding="ascii")
    return program


def versions(name: str) -> dict[str, str]:
    """What is installed there, of that which matters."""
    wanted = (PEERS / "requirements" / f"{name}.txt").read_text(encoding="utf-8")
    code = "import importlib.metadata as m; print(*(f'{d.name}=={d.version}' for d in m.distributions()))"
    listed = subprocess.run([str(python(name)), "-c", code], check=True, capture_output=True, text=True)  # noqa: S603
    found = (item.split("==") for item in listed.stdout.lower().split())
    return {package: version for package, version in found if package in _NAMED or package in wanted}
