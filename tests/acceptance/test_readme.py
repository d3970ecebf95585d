"""The README tells the truth: a reader who types all of it, in order, gets what it says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from documents import ROOT, Block, Reader, blocks
from processes import DELTABUS, Background, environ

README = ROOT / "README.md"


@pytest.fixture
def reader(redis_url: str, tmp_path: Path) -> Iterator[Reader]:
    """A reader who has a Redis and a worker until the README starts others."""
    words = [*DELTABUS, "worker"]
    with (
        Background(words, folder=tmp_path, environ=environ(redis_url)) as worker,
        Reader(tmp_path, redis_url) as reader,
    ):
        worker.wait_for("worker started")
        yield reader


@pytest.mark.timeout(1200)
def test_every_command_and_program_of_the_readme_runs_and_does_what_it_says(reader: Reader) -> None:
    reader.follow(README)


def test_the_first_program_fits_on_a_screen() -> None:
    first = next(block for block in blocks(README) if block.language == "python")
    assert len(first.text.splitlines()) <= 12


def test_the_repository_needs_two_commands() -> None:
    commands = [block.text.strip() for block in blocks(README) if "repository" in block.options]
    assert [command for command in commands if command.startswith("make")] == ["make demo", "make test"]


def test_every_link_leads_to_something() -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", README.read_text(encoding="utf-8")):
        assert (ROOT / target).exists(), target


def test_every_code_of_an_error_is_explained() -> None:
    from deltabus import errors

    codes = {cls.code for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, errors.TaskError)}
    table = README.read_text(encoding="utf-8").partition("| code | meaning |")[2].partition("\n\n")[0]
    told = set(re.findall(r"`(\w+)`", "".join(line.split("|")[1] for line in table.splitlines()[2:])))
    assert told == codes


def _document(tmp_path: Path, text: str) -> list[Block]:
    path = ROOT / "README.md"
    document = tmp_path / "document.md"
    document.write_text(text)
    return [block._replace(path=path) for block in blocks(document)]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("```sh\nfalse\n```", "exit code 1"),
        ("```sh exit=2\ntrue\n```", "exit code 0"),
        ("```python\nraise SystemExit(3)\n```", "exit code 3"),
        ("```sh\necho one\n```\n```text\ntwo\n```", "what was printed is something else"),
        ("```json\n{\n```", "not json"),
        ("```mermaid\ngraph\n```", "cannot be run"),
        ("```\nwhat is this\n```", "cannot be run"),
        ('```sh background="ready"\ntrue\n```', "never said 'ready'"),
    ],
)
def test_a_document_that_lies_is_found_out(tmp_path: Path, text: str, says: str) -> None:
    *before, last = _document(tmp_path, text)
    with Reader(tmp_path) as reader:
        for block in before:
            reader.run(block)
        with pytest.raises(pytest.fail.Exception, match=says):
            reader.run(last)


def test_output_may_leave_things_open(tmp_path: Path) -> None:
    with Reader(tmp_path) as reader:
        for block in _document(tmp_path, "```sh\necho one two three\n```\n```text\none … three\n```"):
            reader.run(block)
