"""What the build stage of the Dockerfile does, step by step, in a folder instead of an image: no engine is needed.

    python ops/deploy/build_without_engine.py FOLDER

Copies what the stage copies, from what .dockerignore lets in, and runs its RUN lines with their paths in the folder. It
ends with the program of the result: FOLDER/opt/deltabus/bin/deltabus. Package indexes are those that pip is set up for.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "ops" / "deploy" / "Dockerfile"

#: Absolute paths that the steps write to.
PATHS = ("/opt/deltabus", "/dist")


def main(folder: Path) -> None:
    """Run the stage, and then the program."""
    text = DOCKERFILE.read_text(encoding="utf-8").replace("\\\n", " ")
    stage = text.split("\nFROM ")[1]
    sources, base = folder / "src", folder / "base"
    sources.mkdir(parents=True)
    # In place of the base image: an interpreter with nothing but pip.
    subprocess.run([sys.executable, "-m", "venv", base], check=True)
    variables = {**os.environ, "PATH": f"{base / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    for instruction, words in re.findall(r"^(ENV|COPY|RUN) +(.*)$", stage, re.MULTILINE):
        match instruction:
            case "ENV":
                variables |= dict(word.split("=", 1) for word in words.split())
            case "COPY":
                *given, target = words.split()
                for name in given:
                    _copy(ROOT / name, sources / target)
            case _:
                print(f"RUN {words}", flush=True)
                here = functools.reduce(lambda text, path: text.replace(path, f"{folder}{path}"), PATHS, words)
                subprocess.run(["/bin/sh", "-c", here], cwd=sources, env=variables, check=True)
    program = folder / "opt" / "deltabus" / "bin" / "deltabus"
    # Started elsewhere, by nothing but its path, as the last stage does.
    subprocess.run([program, "--version"], cwd=folder, env={"PATH": ""}, check=True)
    subprocess.run([program, "worker", "--help"], cwd=folder, env={"PATH": ""}, check=True, stdout=subprocess.DEVNULL)


def _copy(source: Path, target: Path) -> None:
    """As COPY does: a folder's content into the target, a file into it where that is a folder."""
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
