"""ops/protocol.md tells the truth: every session in it is typed as it stands, and answers as it says."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args
from urllib.parse import urlsplit

import msgspec
import pytest
from documents import blocks
from processes import DELTABUS, PATIENCE, Background, environ
from redis.connection import Connection

from deltabus import events, keys
from deltabus.embedded import EmbeddedRedis
from deltabus.envelope import Envelope
from deltabus.errors import TaskError

DOCUMENT = Path(__file__).parents[2] / "ops" / "protocol.md"

PROMPT = re.compile(r"(redis|listener)> (.*)")


class Terminal:
    """`redis-cli --raw`: what is typed goes out as RESP2, what comes back is lines of text."""

    def __init__(self, url: str) -> None:
        place = urlsplit(url)
        self._connection = Connection(host=place.hostname, port=place.port, protocol=2, socket_timeout=PATIENCE)

    def type(self, line: str) -> str:
        self._connection.send_command(*shlex.split(line))
        return self.read()

    def read(self) -> str:
        return "".join(f"{line}\n" for line in _lines(self._connection.read_response()))

    def read_until(self, end: str) -> str:
        text = ""
        while end not in text:
            text += self.read()
        return text

    def close(self) -> None:
        self._connection.disconnect()


def _lines(reply: Any) -> Iterator[str]:
    if isinstance(reply, list):
        for item in reply:
            yield from _lines(item)
    elif reply is None:
        yield ""
    else:
        yield reply.decode() if isinstance(reply, bytes) else str(reply)


def steps(session: str) -> Iterator[tuple[str | None, str, str]]:
    """`(terminal, what is typed, what is printed)`; without a terminal it is what arrives at the listener."""
    terminal, typed, printed = None, "", ""
    for line in session.splitlines():
        if match := PROMPT.fullmatch(line):
            if terminal or printed:
                yield terminal, typed, printed
            (terminal, typed), printed = match.groups(), ""
        else:
            printed += f"{line}\n"
    yield terminal, typed, printed


def resembles(said: str, printed: str) -> bool:
    """Whether the document's text stands for the answer: `…` is any text in a line, or any lines."""
    pattern = "".join(
        r"(?:.*\n)*?" if line == "…" else re.escape(line).replace("…", ".*") + r"\n" for line in printed.splitlines()
    )
    return re.fullmatch(pattern, said) is not None


@pytest.fixture
def worker(fresh_redis: EmbeddedRedis, tmp_path: Path) -> Iterator[str]:
    """A worker without any configuration, on a server of its own, whose URL this is."""
    with Background([*DELTABUS, "worker"], folder=tmp_path, environ=environ(fresh_redis.url)) as process:
        yield fresh_redis.url
        sys.stdout.write(process.said)  # pytest shows it where the test has failed


def test_the_protocols_document_can_be_typed_as_it_stands(worker):
    terminals = {"redis": Terminal(worker), "listener": Terminal(worker)}
    done = 0

    for session in (block for block in blocks(DOCUMENT) if block.language == "console"):
        for terminal, typed, printed in steps(session.text):
            said = terminals[terminal].type(typed) if terminal else terminals["listener"].read_until(keys.SEAL)
            assert resembles(said, printed), (
                f"{session}: {terminal}> {typed}\nsaid:\n{said}\nthe document says:\n{printed}"
            )
            done += 1
    for each in terminals.values():
        each.close()
    assert done > 20


def first_column(heading: str) -> list[str]:
    """What the table under a heading lists."""
    section = DOCUMENT.read_text(encoding="utf-8").partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return re.findall(r"^\| `([^`]+)`", section, re.MULTILINE)


def test_it_lists_every_field_event_and_code():
    assert set(first_column("The envelope")) == {field.name for field in msgspec.structs.fields(Envelope)}
    assert first_column("Events") == [kind.__struct_config__.tag for kind in get_args(events.AnyEvent)]
    listed = re.search(r"The codes: (.*?)\.\n", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    assert listed
    assert set(re.findall(r"`(\w+)`", listed[1])) == {kind.code for kind in TaskError.__subclasses__()}


def test_it_lists_every_key_and_channel():
    names = [keys.log("<task>"), keys.cancel("<task>"), keys.events("<task>"), keys.results("<queue>")]
    names += [keys.CANCEL_CHANNEL, keys.workers("rq"), keys.reconciler("rq"), keys.blob("<id>")]

    assert {name for name in first_column("Keys and channels") if keys.PREFIX in name} == set(names)


@pytest.mark.parametrize("name", re.findall(r"\]\((?!https?:)([^)#]+)\)", DOCUMENT.read_text(encoding="utf-8")))
def test_its_links_lead_somewhere(name):
    assert (DOCUMENT.parent / name).exists()
