"""Known vulnerabilities of what a release installs: `python -m supply.audit …`, by pip-audit and a service it asks.

Exit code 0: every package was looked up, and nothing is known against it. 1: something is. 2: it could not be
asked about all of them, as without a network, or at an index that knows no vulnerabilities: that is no clean bill.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Final

from supply.sbom import LOCK

#: Seconds that the service may take for one answer.
TIMEOUT: Final = 30

KNOWN: Final = 1
NOT_ASKED: Final = 2


def main(arguments: list[str]) -> int:
    """Ask, and print what is known.

    Args:
        arguments: pip-audit and further arguments of it, such as `--vulnerability-service osv`.
    """
    options = ["--format", "json", "--progress-spinner", "off", "--timeout", str(TIMEOUT)]
    lock = ["--require-hashes", "--disable-pip", "--requirement", str(LOCK)]
    done = subprocess.run([*arguments, *options, *lock], capture_output=True, text=True, check=False)  # noqa: S603 - the Makefile's words
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return _not_asked(f"nothing was audited: {last[:300]}")
    known = [(package, one) for package in packages for one in package.get("vulns", [])]
    for package, one in known:
        fixed = f"; mended in {', '.join(one['fix_versions'])}" if one.get("fix_versions") else ""
        print(f"{package['name']} {package['version']}: {one['id']}{fixed}")
    skipped = [package["name"] for package in packages if "skip_reason" in package]
    if skipped or not packages:
        return _not_asked(
            f"{len(skipped)} of {len(packages)} packages are unknown to the service ({', '.join(skipped[:3])}, …): "
            "is the index a mirror?"
        )
    print(f"{Path(LOCK).name}: {len(packages)} packages, {len(known)} known vulnerabilities")
    return KNOWN if known else 0


def _not_asked(why: str) -> int:
    print(
        f"audit: NOT DONE: {why}\n"
        "Run it where the service can be reached, or ask another one: make audit SERVICE=osv (default: pypi).",
        file=sys.stderr,
    )
    return NOT_ASKED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
