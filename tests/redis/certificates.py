"""A certificate authority of a test's own, and what it has signed for server and clients."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

#: The hosts of this machine.
_HERE = "IP:127.0.0.1,DNS:localhost"


class Authority:
    """`ca.pem`, and `<name>.pem` with `<name>.key` for whom it has signed."""

    def __init__(self, folder: Path) -> None:
        if shutil.which("openssl") is None:
            (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("openssl is not installed")
        self._folder = folder
        self._openssl(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=authority "
            "-keyout ca.key -out ca.pem"
        )

    def sign(self, name: str, hosts: str = _HERE, days: int = 2) -> None:
        """Args: days: for how long; -1: it ended yesterday."""
        extensions = f"subjectAltName={hosts}\nextendedKeyUsage=serverAuth,clientAuth\n"
        (self._folder / "extensions").write_text(extensions)
        self._openssl(
            f"req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN={name} "
            f"-keyout {name}.key -out {name}.csr"
        )
        self._openssl(
            f"x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days {days} -extfile extensions "
            f"-out {name}.pem"
        )

    def path(self, name: str) -> str:
        return str(self._folder / name)

    def _openssl(self, arguments: str) -> None:
        subprocess.run(["openssl", *arguments.split()], cwd=self._folder, check=True, capture_output=True)
