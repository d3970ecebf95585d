"""Files on the command line's side: whole or not there, and never another's bytes."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from deltabus.cli.local import Given, check_output, save
from deltabus.cli.screens import Screen
from deltabus.errors import BlobNotFound, BusError

DATA = b"one two three"


class Bus:
    """A bus with one blob, which may break off."""

    def __init__(self, *, breaks: bool = False) -> None:
        self.deleted: list[str] = []
        self.written = b""
        self._breaks = breaks

    async def blob(self, data: Iterator[bytes]) -> str:
        self.written = b"".join(data)
        return "b1"

    async def read_blob(self, blob: str) -> AsyncGenerator[bytes]:
        yield DATA[:5]
        if self._breaks:
            raise BlobNotFound("it has expired")
        yield DATA[5:]

    async def delete_blob(self, blob: str) -> bool:
        self.deleted.append(blob)
        return True


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def kept(**more: Any) -> dict[str, Any]:
    digest = hashlib.sha256(DATA).hexdigest()
    known = {"bytes": len(DATA), "media_type": "text/plain", "sha256": digest, "filename": "a.txt"}
    return {"object": "blob", "id": "b1", **known, **more}


def test_a_file_is_there_when_it_is_whole(run, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"what was there before, and longer")
    bus = Bus()
    saved = run(save(bus, Screen(), kept(), str(tmp_path / "a")))
    assert saved.described == {
        "object": "stored",
        "path": str(tmp_path / "a"),
        "bytes": len(DATA),
        "media_type": "text/plain",
        "sha256": hashlib.sha256(DATA).hexdigest(),
    }
    assert (tmp_path / "a").read_bytes() == DATA
    assert (bus.deleted, names(tmp_path)) == (["b1"], ["a"])


@pytest.mark.parametrize(
    ("name", "called"), [("a.txt", "a.txt"), ("../../a.txt", "a.txt"), ("..", "b1"), ("", "b1"), (None, "b1")]
)
def test_in_a_folder_a_file_is_called_as_it_was_and_leads_nowhere_else(
    run, tmp_path: Path, name: str | None, called: str
) -> None:
    run(save(Bus(), Screen(), kept(filename=name), str(tmp_path)))
    assert names(tmp_path) == [called]


@pytest.mark.parametrize("breaks", [True, False])
def test_what_breaks_off_or_is_something_else_leaves_what_was_there(run, tmp_path: Path, breaks: bool) -> None:
    (tmp_path / "a").write_bytes(b"before")
    bus = Bus(breaks=breaks)
    with pytest.raises(BusError, match="expired" if breaks else "not what the worker put there"):
        run(save(bus, Screen(), kept(sha256="0" * 64), str(tmp_path / "a")))
    assert (tmp_path / "a").read_bytes() == b"before"
    assert (bus.deleted, names(tmp_path)) == (["b1"], ["a"])


def test_a_named_pipe_gets_the_bytes_as_they_come(run, tmp_path: Path) -> None:
    os.mkfifo(pipe := tmp_path / "pipe")
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    run(save(Bus(), Screen(), kept(), str(pipe)))
    reader.join(60)
    assert read == [DATA]
    assert pipe.is_fifo()


def test_a_file_that_cannot_be_written_is_a_line(run, tmp_path: Path) -> None:
    bus = Bus()
    with pytest.raises(click.UsageError, match="No such file or directory"):
        run(save(bus, Screen(), kept(), str(tmp_path / "gone" / "a")))
    assert bus.deleted == ["b1"]


def test_bytes_and_a_terminal_do_not_go_together(tmp_path: Path) -> None:
    screen = Screen()
    screen._out_is_terminal = True
    with pytest.raises(click.UsageError, match="say where to with -o FILE"):
        check_output(screen, None)
    check_output(screen, "-")
    check_output(screen, str(tmp_path / "a"))


@pytest.mark.parametrize("fails", [True, False])
def test_the_blob_of_a_file_goes_when_its_task_has_ended(run, tmp_path: Path, fails: bool) -> None:
    (tmp_path / "a").write_bytes(DATA)
    bus = Bus()
    given = Given(str(tmp_path / "a"), path=None, url=None)

    async def main() -> None:
        async with given.source(bus, Screen()) as source:
            assert (source, bus.written, given.name) == ({"blob": "b1"}, DATA, "a")
            assert bus.deleted == []
            if fails:
                raise BusError("the task failed")

    if fails:
        with pytest.raises(BusError):
            run(main())
    else:
        run(main())
    assert bus.deleted == ["b1"]


def test_an_empty_pipe_is_nothing_to_send(run, tmp_path: Path) -> None:
    os.mkfifo(pipe := tmp_path / "pipe")
    writer = threading.Thread(target=lambda: pipe.write_bytes(b""))
    writer.start()
    given = Given(str(pipe), path=None, url=None)

    async def main() -> None:
        async with given.source(Bus(), Screen()):
            raise AssertionError

    with pytest.raises(click.UsageError, match="is empty"):
        run(main())
    writer.join(60)
