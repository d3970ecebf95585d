"""A lock file: what a release installs, each package at one version and by its hashes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

_PIN = re.compile(r"(?P<name>[a-z0-9][a-z0-9.-]*)==(?P<version>[^\s;\\]+)( ; (?P<marker>[^\\]+?))?( \\)?")
_HASH = re.compile(r"\s+--hash=sha256:(?P<hash>[0-9a-f]{64})( \\)?")
_VIA = re.compile(r"\s+#(\s+via)?(\s+(?P<parent>\S.*))?")


class Pin(NamedTuple):
    """One package of the lock."""

    name: str
    version: str
    #: Where it is installed (PEP 508); empty: everywhere.
    marker: str
    #: SHA-256 of each of its files, in hex.
    hashes: tuple[str, ...]
    #: Names of the packages that want it.
    parents: tuple[str, ...]


def read(path: Path) -> list[Pin]:
    """The packages of a lock file, in its order.

    Raises:
        ValueError: a line is none that `make lock` writes; the message names it.
    """
    pins: list[Pin] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.startswith("#") or not line:
            continue
        if match := _PIN.fullmatch(line):
            pins.append(Pin(match["name"], match["version"], match["marker"] or "", (), ()))
        elif pins and (match := _HASH.fullmatch(line)):
            pins[-1] = pins[-1]._replace(hashes=(*pins[-1].hashes, match["hash"]))
        elif pins and (match := _VIA.fullmatch(line)):
            # `deltabus (pyproject.toml)`, `-r -`: what is locked itself.
            parent = (match["parent"] or "").partition(" ")[0]
            if parent:
                pins[-1] = pins[-1]._replace(parents=(*pins[-1].parents, parent))
        else:
            raise ValueError(f"{path}:{number}: not a line of a lock file: {line}")
    return pins
