"""Files on this side: read into a blob for a worker to take, and written from a blob that a worker has filled."""

from __future__ import annotations

import hashlib
import os
import stat
import sys
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import click

from deltabus.cli.screens import Screen
from deltabus.errors import BusError

if TYPE_CHECKING:
    from deltabus.bus import AsyncBus

#: Bytes that are read at a time.
_PIECE: Final = 1024 * 1024


class Given:
    """What a command is told to send: a file here, a file on the worker's side, or a URL; one of them.

    Raises:
        click.UsageError: none or several are given, or the file cannot be read.
    """

    def __init__(self, file: str | None, *, path: str | None, url: str | None) -> None:
        if sum(source is not None for source in (file, path, url)) != 1:
            raise click.UsageError("say what to send: a FILE, `-` for stdin, --path or --url; one of them")
        self._local = None if file is None else _LocalFile(file)
        self._remote = {"path": path} if path is not None else {"url": url}
        #: What it is called here; None: the worker finds out.
        self.name = self._local.name if self._local is not None else None
        #: Where the worker has it from, for a progress bar.
        self.doing = "Redis" if self._local is not None else "worker"

    @asynccontextmanager
    async def source(self, bus: AsyncBus, screen: Screen) -> AsyncGenerator[dict[str, Any]]:
        """For the request. A file here is put into a blob, which is deleted afterwards; unless the user leaves:
        then the task goes on, and needs it.
        """
        if self._local is None:
            yield self._remote
            return
        blob = await bus.blob(self._local.pieces(screen))
        try:
            yield {"blob": blob}
        except Exception:
            await bus.delete_blob(blob)
            raise
        else:
            await bus.delete_blob(blob)


@dataclass(frozen=True, slots=True)
class Saved:
    """A file here that was a blob: the blob is gone."""

    path: str
    bytes: int
    media_type: str
    sha256: str

    @property
    def described(self) -> dict[str, Any]:
        """For `--json`."""
        return {"object": "stored", **asdict(self)}


class _LocalFile:
    """A file that is to be sent; `-` is stdin. Opened at once, so that what is wrong with it is said at once.

    Raises:
        click.UsageError: it cannot be read, or has nothing in it.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        try:
            self._file: BinaryIO = sys.stdin.buffer if path == "-" else Path(path).open("rb")  # noqa: SIM115 # closed when it was read
            found = os.fstat(self._file.fileno())
        except OSError as exc:
            raise click.UsageError(f"{path}: {exc.strerror or exc}") from exc
        #: Bytes, where that is known before they are read.
        self.size = found.st_size if stat.S_ISREG(found.st_mode) else None
        self.name = "stdin" if path == "-" else Path(path).name
        if self.size == 0:
            self._file.close()
            raise click.UsageError(f"{path}: is empty: there is not a byte to send")

    def pieces(self, screen: Screen) -> Iterator[bytes]:
        """Its bytes, once."""
        done = 0
        try:
            while piece := self._file.read(_PIECE):
                done += len(piece)
                screen.progress(f"{self.name} to Redis", done, self.size)
                yield piece
        except OSError as exc:
            raise click.UsageError(f"{self._path}: {exc.strerror or exc}") from exc
        finally:
            self._file.close()
        if done == 0:
            raise click.UsageError(f"{self._path}: is empty: there is not a byte to send")


def check_output(screen: Screen, output: str | None, *, as_json: bool = False) -> None:
    """Refuse to write bytes where nobody wants them, before anything is asked for.

    Raises:
        click.UsageError: the message says what to do.
    """
    if output is None and not screen.takes_bytes:
        raise click.UsageError(
            "these are bytes, and stdout is a terminal: say where to with -o FILE, or -o - to insist"
        )
    if as_json and output in {None, "-"}:
        raise click.UsageError("--json and the bytes cannot both go to stdout: say where to with -o FILE")
    if output not in {None, "-"} and not (parent := Path(str(output)).absolute().parent).is_dir():
        raise click.UsageError(f"-o {output}: there is no folder {parent}")


async def save(bus: AsyncBus, screen: Screen, kept: dict[str, Any], output: str | None) -> Saved | None:
    """Write a blob to a file or to stdout, check it, and delete it; what was written, where it is a file.

    Args:
        kept: what the result says of the blob.
        output: a file, which is there when it is whole; a folder, for a file of the blob's own name; None or `-`:
            stdout.

    Raises:
        click.UsageError: the file cannot be written.
    """
    target = None if output in {None, "-"} else Path(str(output))
    if target is not None and target.is_dir():
        name = Path(kept.get("filename") or "").name
        target = target / (name if name.strip(".") else kept["id"])
    digest = hashlib.sha256()
    done = 0
    try:
        with _written(target, screen) as write:
            async with aclosing(bus.read_blob(kept["id"])) as pieces:
                async for piece in pieces:
                    write(piece)
                    digest.update(piece)
                    done += len(piece)
                    if target is not None:
                        screen.progress(f"Redis to {target.name}", done, kept["bytes"])
            if digest.hexdigest() != kept["sha256"]:
                raise BusError(f"blob {kept['id']} is not what the worker put there: nothing was written")
    except BrokenPipeError:
        raise
    except OSError as exc:
        raise click.UsageError(f"{target or 'stdout'}: {exc.strerror or exc}") from exc
    finally:
        screen.settle()
        await bus.delete_blob(kept["id"])
    return None if target is None else Saved(str(target), kept["bytes"], kept["media_type"], kept["sha256"])


@contextmanager
def _written(target: Path | None, screen: Screen) -> Iterator[Callable[[bytes], object]]:
    """What takes the bytes. A file is there when they all are; one that is no plain file gets them as they come."""
    if target is None:
        yield screen.binary
        return
    if target.exists() and not target.is_file():
        with target.open("wb") as file:
            yield file.write
        return
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with part.open("xb") as file:
            yield file.write
        part.replace(target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
