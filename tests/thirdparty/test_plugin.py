"""A plugin as a stranger writes it, from plugins/README.md, in an environment of its own."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import documents
import pytest
from deltabus import http

README = documents.ROOT / "plugins" / "README.md"
SAMPLE = Path(__file__).parent / "deltabus-ollama"

#: Seconds after which a command of the document counts as hanging.
PATIENCE = 100


@pytest.fixture
def environ(tmp_path):
    """An environment with deltabus installed, into which nothing else has been; nothing is downloaded."""
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    programs = venv / "bin"
    paths = sysconfig.get_paths(vars={"base": str(venv), "platbase": str(venv)})
    # What the tests run with, editable installations and pip included, is there as well, after what is in the venv.
    ours = sysconfig.get_paths()["purelib"]
    Path(paths["purelib"], "ours.pth").write_text(f"import site; site.addsitedir({ours!r})\n")
    command = programs / "deltabus"
    command.write_text(f"#!{programs / 'python'}\nfrom deltabus.cli import main\nmain()\n")
    command.chmod(0o755)
    kept = {
        name: value
        for name, value in os.environ.items()
        if not re.match("(?i)DELTABUS_|(OPENAI|ANTHROPIC|GEMINI|GOOGLE)_|PIP_|.*_PROXY", name)
    }
    return {
        **kept,
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "PIP_NO_INDEX": "1",
        "PIP_NO_BUILD_ISOLATION": "0",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "COLUMNS": "120",
    }


def run(command: str, folder: Path, environ: dict[str, str]) -> str:
    done = subprocess.run(
        ["bash", "-euc", command],
        cwd=folder,
        env=environ,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.timeout(500)
def test_the_readme_leads_from_an_empty_folder_to_a_plugin_that_passes_the_contract(tmp_path, environ):
    folder = tmp_path / "empty"
    folder.mkdir()
    outputs = []
    for block in documents.blocks(README):
        if name := block.options.get("file"):
            (folder / name).write_text(block.text, encoding="utf-8")
        elif block.language == "sh":
            outputs.append(run(block.text, folder, environ))
        elif block.language == "python":
            (tmp_path / "program.py").write_text(block.text, encoding="utf-8")
            outputs.append(run(f"python {tmp_path / 'program.py'}", folder, environ))
        else:
            assert block.language == "text", f"{block}: a block that nothing runs"
            assert squeezed(outputs[-1]) == squeezed(block.text), f"{block}: printed was\n{outputs[-1]}"
    tests = next(output for output in outputs if " passed" in output)
    # What Ollama's plugin has not: files (the test of their errors once for each code).
    from deltabus.testing.filecontract import FileContract

    of_files = [name for name in vars(FileContract) if name.startswith("test_") and "any_other_call" not in name]
    codes = 4
    assert f" {len(of_files) - 1 + codes} skipped" in tests
    assert " failed" not in tests


def squeezed(text: str) -> list[str]:
    """The lines without trailing space, which a table has and a document has not."""
    return [line.rstrip() for line in text.strip().splitlines()]


def test_the_readme_shows_the_plugin_that_is_here_word_for_word():
    shown = {
        block.options["file"].removeprefix("deltabus-ollama/"): block.text
        for block in documents.blocks(README)
        if block.options.get("file", "").startswith("deltabus-ollama/")
    }
    here = {path.name: path.read_text(encoding="utf-8") for path in SAMPLE.iterdir() if path.is_file()}
    assert shown == here


def test_what_the_readme_says_of_the_contract_is_there():
    text = README.read_text(encoding="utf-8")
    from deltabus.testing import ProviderContract
    from deltabus.testing.contract import CROWD

    table = text[text.index("| situation |") :]
    situations = re.findall(r"^\| `(\w+)(?:\((?:code|body)\))?` \|", table, re.MULTILINE)
    assert situations == ["answering", "pausing", "silent", "breaking_off", "failing", "garbage", "keeping", "stalling"]
    assert all(hasattr(ProviderContract, situation) for situation in situations)
    assert f"{CROWD} requests at once" in text


def test_what_the_readme_says_of_http_is_there():
    text = README.read_text(encoding="utf-8")
    table = text[text.index("| part |") : text.index("Nothing obliges you")]
    for row in re.findall(r"^\| (`.*?`) \|", table, re.MULTILINE):
        first, *others = re.findall(r"`([\w.]+)`", row)
        part, _, method = first.partition(".")
        found = getattr(http, part, None) or importlib.import_module(f"deltabus.http.{part}")
        assert all(hasattr(found, name) for name in filter(None, [method, *others])), row
