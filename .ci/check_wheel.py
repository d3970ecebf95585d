"""Whether a wheel holds what it must and nothing else: `check_wheel.py deltabus-….whl`, run in the repository."""

from __future__ import annotations

import configparser
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path


def main(wheel: Path) -> list[str]:
    """What is wrong, one line each."""
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))
    roots = [Path(package) for package in project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]]
    expected = {
        str(Path(file).relative_to(root.parent))
        for root in roots
        for file in subprocess.run(
            ["git", "ls-files", root],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()
    }
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = f"{project['project']['name']}-{project['project']['version']}.dist-info"
        entry_points = configparser.ConfigParser()
        entry_points.read_string(archive.read(f"{metadata}/entry_points.txt").decode())
    shipped = {name for name in names if not name.startswith(f"{metadata}/")}
    wrong = [f"missing: {name}" for name in sorted(expected - shipped)]
    wrong += [f"not of the packages: {name}" for name in sorted(shipped - expected)]
    wrong += [f"missing: {root.name}/py.typed" for root in roots if f"{root.name}/py.typed" not in names]
    if not any(name.startswith("deltabus/scripts/") and name.endswith(".lua") for name in names):
        wrong.append("missing: the Lua scripts")
    if f"{metadata}/licenses/LICENSE" not in names:
        wrong.append("missing: LICENSE")
    groups = {**project["project"]["entry-points"], "console_scripts": project["project"]["scripts"]}
    wrong += [
        f"entry point missing: {group}:{name}"
        for group, points in groups.items()
        for name in points
        if not entry_points.has_option(group, name)
    ]
    print(f"{wheel.name}: {len(shipped)} files, {wheel.stat().st_size // 1024} KiB")
    return wrong


if __name__ == "__main__":
    problems = main(Path(sys.argv[1]))
    sys.exit("\n".join(problems) or None)
