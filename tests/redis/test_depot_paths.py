"""Files of the worker's host: those under the roots and no others, whatever is linked, raced or not a file."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from depots import all_of, depot_at, fetched, pieces_of

from deltabus.blobs import CHUNK
from deltabus.depot import files
from deltabus.errors import InvalidRequest, NotFound, StreamTruncated, TaskError, Unsupported
from deltabus.provider import Download


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with a file, beside a secret."""
    root = tmp_path / "root"
    (root / "folder").mkdir(parents=True)
    (root / "report.pdf").write_bytes(b"a report")
    (root / "empty").touch()
    (tmp_path / "secret").write_bytes(b"the crown jewels")
    (tmp_path / "rooted").mkdir()
    (tmp_path / "rooted" / "secret").write_bytes(b"the crown jewels")
    return root


@pytest.fixture
def read(redis_url: str, run: Callable[..., Any], root: Path) -> Callable[..., bytes]:
    async def read(path: str, roots: tuple[str, ...]) -> bytes:
        async with depot_at(redis_url, file_roots=roots) as depot:
            return await fetched(depot, {"path": path})

    return lambda path, *roots: run(read(str(path), tuple(map(str, roots)) or (str(root),)))


@pytest.fixture
def write(redis_url: str, run: Callable[..., Any], root: Path) -> Callable[..., Any]:
    async def write(path: str, pieces: Any) -> Any:
        async with depot_at(redis_url, file_roots=(str(root),)) as depot:
            return await depot.keep(Download(pieces), {"path": path}, param="to")

    return lambda path, *pieces, error=None: run(write(str(path), pieces_of(*pieces, error=error)))


@pytest.fixture
def open_files() -> Callable[[], list[str]]:
    """Which files, folders and devices this process has open; sockets and pipes may be those of other threads."""

    def look() -> list[str]:
        targets = []
        for descriptor in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # of the look itself
                targets.append(str(descriptor.readlink()))
        return sorted(target for target in targets if target.startswith("/") and not target.endswith("/fd"))

    return look


def test_a_file_in_a_root_is_read(read, root):
    assert read(root / "report.pdf") == b"a report"
    assert read(root / "folder" / ".." / "report.pdf") == b"a report"
    assert read(root / "report.pdf", "/") == b"a report"


@pytest.mark.parametrize("end", ["/", "//", "/.", "/folder/.."])
def test_a_path_that_ends_as_a_folders_does_is_no_files(read, write, root, end):
    for use in (read, lambda path: write(path, b"some")):
        with pytest.raises(TaskError) as caught:
            use(f"{root}/report.pdf{end}")
        assert caught.value.code == "invalid_request"
        assert "must end with the name of a file" in caught.value.message
    with pytest.raises(InvalidRequest, match="must end with the name of a file"):
        write(f"{root}/new.pdf/", b"some")
    assert not (root / "new.pdf").exists()


def test_links_are_followed_as_long_as_they_stay_in_a_root(read, root, tmp_path):
    (root / "folder" / "link").symlink_to("../report.pdf")
    (tmp_path / "way-in").symlink_to(root)
    assert read(root / "folder" / "link") == b"a report"
    assert read(tmp_path / "way-in" / "report.pdf", tmp_path / "way-in") == b"a report"
    assert read(root / "report.pdf", tmp_path / "way-in") == b"a report"


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(path))


REFUSED = {
    "outside": ("{root}/../secret", None, InvalidRequest),
    "outside-and-not-there": ("{root}/../nothing", None, InvalidRequest),
    "a-folder-whose-name-only-begins-as-the-root": ("{root}/../rooted/secret", None, InvalidRequest),
    "relative": ("report.pdf", None, InvalidRequest),
    "home": ("~/report.pdf", None, InvalidRequest),
    "url": ("file://{root}/report.pdf", None, InvalidRequest),
    "zero-byte": ("{root}/report.pdf\0.txt", None, InvalidRequest),
    "half-a-character": ("{root}/\ud800", None, InvalidRequest),
    "too-long": ("{root}/" + "x" * 300, None, InvalidRequest),
    "missing": ("{root}/missing", None, NotFound),
    "in-a-file": ("{root}/report.pdf/x", None, NotFound),
    "empty": ("{root}/empty", None, InvalidRequest),
    "folder": ("{root}/folder", None, InvalidRequest),
    "the-root": ("{root}", None, InvalidRequest),
    "link-out": ("{root}/it", lambda path: path.symlink_to("../secret"), InvalidRequest),
    "link-out-of-a-folder": ("{root}/it/secret", lambda path: path.parent.symlink_to(".."), InvalidRequest),
    "link-to-nothing": ("{root}/it", lambda path: path.symlink_to("nothing"), NotFound),
    "link-to-itself": ("{root}/it", lambda path: path.symlink_to("it"), TaskError),
    "link-to-the-process": ("{root}/it", lambda path: path.symlink_to("/proc/self/environ"), InvalidRequest),
    "device": ("{root}/it", lambda path: path.symlink_to("/dev/zero"), InvalidRequest),
    "pipe": ("{root}/it", make_pipe, InvalidRequest),
    "socket": ("{root}/it", make_socket, InvalidRequest),
}


@pytest.mark.parametrize(("path", "make", "kind"), [pytest.param(*case, id=name) for name, case in REFUSED.items()])
def test_a_path_that_may_not_be_read_is_a_clear_error(path, make, kind, read, open_files, root):  # noqa: PLR0917 # a table
    path = path.replace("{root}", str(root))
    if make is not None:
        make(Path(path))
    before = open_files()
    with pytest.raises(kind) as caught:
        read(path)
    assert caught.value.param in {"source", "source.path"}
    assert "`source" in caught.value.message
    assert "/" not in caught.value.message
    assert open_files() == before


def test_a_file_that_the_system_does_not_let_the_worker_read_is_a_clear_error(read, root, monkeypatch):
    real = os.open

    def refuse(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        if path == "report.pdf":
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(InvalidRequest, match="refuses permission") as caught:
        read(root / "report.pdf")
    assert caught.value.param == "source.path"


def test_a_worker_without_roots_takes_no_paths(redis_url, run, root):
    async def main() -> None:
        async with depot_at(redis_url) as depot:
            with pytest.raises(Unsupported, match="file_roots"):
                await fetched(depot, {"path": str(root / "report.pdf")})
            with pytest.raises(Unsupported, match="file_roots"):
                await depot.check({"path": str(root / "x")}, param="to")

    run(main())


@pytest.mark.parametrize("where", ["report.pdf", "folder/report.pdf"])
def test_a_link_that_is_put_there_between_the_check_and_the_opening_is_not_followed(
    where, read, root, tmp_path, monkeypatch
):
    (root / "folder" / "report.pdf").write_bytes(b"a report")
    real = files.checked

    def raced(*args: Any) -> Any:
        found = real(*args)
        victim = root / where.split("/")[0]
        victim.rename(tmp_path / "away")
        (tmp_path / "report.pdf").write_bytes(b"the crown jewels")
        victim.symlink_to(tmp_path / ("report.pdf" if where == "report.pdf" else "."))
        return found

    monkeypatch.setattr(files, "checked", raced)
    with pytest.raises(TaskError):
        read(root / where)


def test_a_file_that_shrinks_is_an_error_and_one_that_grows_is_read_as_it_was(redis_url, run, root):
    path = root / "data"

    async def main() -> None:
        async with depot_at(redis_url, file_roots=(str(root),)) as depot:
            path.write_bytes(b"x" * 3 * CHUNK)
            async with depot.open({"path": str(path)}, param="source") as content:
                with path.open("ab") as file:
                    file.write(b"more")
                assert await all_of(content) == b"x" * 3 * CHUNK
                os.truncate(path, CHUNK)
                with pytest.raises(InvalidRequest, match="became shorter") as caught:
                    await all_of(content)
                assert caught.value.param == "source.path"

    run(main())


def test_a_read_that_is_given_up_leaves_no_file_open(redis_url, run, root, open_files):
    (root / "data").write_bytes(b"x" * 3 * CHUNK)

    async def main() -> None:
        async with depot_at(redis_url, file_roots=(str(root),)) as depot:
            before = open_files()
            async with (
                depot.open({"path": str(root / "data")}, param="source") as content,
                aclosing(content.read()) as pieces,
            ):
                assert await anext(pieces)
            assert open_files() == before

    run(main())


def test_a_download_becomes_a_file(write, root):
    kept = write(root / "folder" / "talk.mp3", b"some ", b"words")
    assert (kept["object"], kept["path"], kept["filename"]) == ("stored", str(root / "folder" / "talk.mp3"), "talk.mp3")
    assert (root / "folder" / "talk.mp3").read_bytes() == b"some words"
    assert [path.name for path in (root / "folder").iterdir()] == ["talk.mp3"]


def test_a_file_that_exists_is_not_overwritten_but_may_be_the_same(write, root):
    write(root / "report.pdf", b"a report")
    with pytest.raises(InvalidRequest, match="exists already") as caught:
        write(root / "report.pdf", b"a forgery")
    assert caught.value.param == "to.path"
    assert (root / "report.pdf").read_bytes() == b"a report"
    assert {path.name for path in root.iterdir()} == {"report.pdf", "empty", "folder"}


def test_a_download_that_breaks_off_leaves_no_file(write, root, open_files):
    before = open_files()
    with pytest.raises(StreamTruncated):
        write(root / "talk.mp3", b"some", error=StreamTruncated("it broke off"))
    assert {path.name for path in root.iterdir()} == {"report.pdf", "empty", "folder"}
    assert open_files() == before


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("{root}/../new", InvalidRequest),
        ("{root}/missing/new", NotFound),
        ("{root}/folder", InvalidRequest),
        ("{root}/link", InvalidRequest),
        ("{root}", InvalidRequest),
    ],
)
def test_nothing_is_written_outside_of_the_roots_or_over_what_is_no_file(path, kind, write, root):
    (root / "link").symlink_to("../secret")
    with pytest.raises(kind) as caught:
        write(path.replace("{root}", str(root)), b"a forgery")
    assert caught.value.param == "to.path"
    assert {path.name for path in root.parent.iterdir()} == {"root", "secret", "rooted"}
    assert (root.parent / "secret").read_bytes() == b"the crown jewels"
