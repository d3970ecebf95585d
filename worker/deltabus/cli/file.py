"""`deltabus file`: the provider's files, through the queue."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import click

from deltabus.cli import exits
from deltabus.cli.age import Age
from deltabus.cli.desk import Desk, desk_options
from deltabus.cli.local import Given, check_output, save
from deltabus.cli.options import CommandGroup, Session, pass_session
from deltabus.cli.params import PARAM, params_of
from deltabus.errors import TaskFailed
from deltabus.keys import FILE_QUEUE

if TYPE_CHECKING:
    from deltabus.bus import AsyncBus

FILE = """A provider's files: upload, list, look at, download, delete.

Each is a task on the queue `file`, like a chat on its own; the worker talks to the provider.

\b
Examples:
  deltabus file upload report.pdf --purpose user_data
  deltabus file list
  deltabus file get file-abc123
  deltabus file content file-abc123 -o report.pdf
  deltabus file delete file-abc123
"""

UPLOAD = """Upload a file to the provider and print its id.

FILE is read here (`-` is stdin) and goes through Redis, piece by piece; it is deleted there afterwards. With
--path, the worker reads a file of its own (under its `file_roots`); with --url, it fetches one (http, https, s3,
gs, az).

\b
Examples:
  deltabus file upload report.pdf
  deltabus file upload picture.jpg --purpose vision --expires-after 12h
  id=$(deltabus file upload - --filename notes.txt < notes.txt)
  deltabus file upload --url https://example.com/report.pdf
  deltabus file upload --path /data/night.jsonl --purpose batch -p openai
"""

LIST = """List the provider's files: id, bytes, purpose, when they were made, name.

\b
Examples:
  deltabus file list
  deltabus file list --purpose batch --limit 100
  deltabus file list --all --json | jq -r .id
"""

GET = """Show what the provider says of a file.

\b
Examples:
  deltabus file get file-abc123
  deltabus file get file-abc123 --json | jq .bytes
"""

CONTENT = """Download a file: to -o FILE, or to stdout where that is a file or a pipe.

The bytes are checked on their way (SHA-256), and FILE is there when it is whole. With --to, the worker puts them into
storage itself, and says where.

\b
Examples:
  deltabus file content file-abc123 -o report.pdf
  deltabus file content file-abc123 | sha256sum
  deltabus file content file-abc123 --to s3://bucket/report.pdf
"""

DELETE = """Delete files at the provider.

\b
Examples:
  deltabus file delete file-abc123
  deltabus file list --all --json | jq -r .id | xargs deltabus file delete

Exit code: 0 all deleted; 1 some could not be.
"""

#: Files that are listed where nobody asks for more.
LISTED: Final = 20

#: Files that one task asks for.
PAGE: Final = 1000

_common = desk_options(FILE_QUEUE)


@click.group("file", cls=CommandGroup, help=FILE)
def file() -> None:
    pass


@file.command("upload", help=UPLOAD)
@click.argument("file", required=False, metavar="[FILE|-]")
@click.option("--path", help="A file on the worker's side, instead.")
@click.option("--url", help="A file that the worker fetches, instead.")
@click.option("--purpose", default="user_data", show_default=True, help="What the provider is to use it for.")
@click.option("--filename", metavar="NAME", help="What the provider is to call it. Default: its own name.")
@click.option("--media-type", metavar="TYPE", help="Its MIME type. Default: what its name says.")
@click.option("--expires-after", type=Age(), metavar="AGE", help="When the provider deletes it: 12h, 7d.")
@PARAM
@_common
@pass_session
def upload(
    session: Session,
    /,
    *,
    file: str | None,
    path: str | None,
    url: str | None,
    purpose: str,
    filename: str | None,
    media_type: str | None,
    expires_after: float | None,
    params: tuple[str, ...],
    as_json: bool,
    provider: str | None,
    queue: str,
) -> int:
    own = {"purpose": "--purpose", "filename": "--filename", "media_type": "--media-type", "source": "FILE"}
    more = params_of(params, own | {"expires_after": "--expires-after"})
    given = Given(file, path=path, url=url)
    desk = Desk(session, provider=provider, queue=queue)

    async def work(bus: AsyncBus) -> int:
        async with given.source(bus, desk.screen) as source:
            task = await bus.upload(
                source,
                purpose=purpose,
                filename=filename or given.name,
                media_type=media_type,
                expires_after=None if expires_after is None else int(expires_after),
                **desk.options,
                **more,
            )
            made = await desk.outcome(task, f"{given.doing} to the provider")
        if as_json:
            desk.screen.json(made)
        else:
            desk.screen.note(_described(made))
            desk.screen.answer(f"{made.get('id')}\n")
        return exits.DONE

    return desk.run(work)


@file.command("list", help=LIST)
@click.option("--purpose", help="Only files for this.")
@click.option("--limit", type=click.IntRange(min=1), default=LISTED, show_default=True, help="How many at the most.")
@click.option("--all", "everything", is_flag=True, help="All of them, page after page.")
@click.option("--after", metavar="ID", help="Begin behind this file.")
@click.option("--order", type=click.Choice(["asc", "desc"]), help="Oldest or newest first. Default: the provider's.")
@_common
@pass_session
def list_(
    session: Session,
    /,
    *,
    purpose: str | None,
    limit: int,
    everything: bool,
    after: str | None,
    order: str | None,
    as_json: bool,
    provider: str | None,
    queue: str,
) -> int:
    desk = Desk(session, provider=provider, queue=queue)

    async def work(bus: AsyncBus) -> int:
        found: list[dict[str, Any]] = []
        cursor, more = after, True
        while more and (everything or len(found) < limit):
            size = PAGE if everything else min(PAGE, limit - len(found))
            page = await desk.outcome(
                await bus.files(purpose=purpose, limit=size, order=order, after=cursor, **desk.options)
            )
            files = page.get("data") or []
            if not everything:  # There are servers that know no limit.
                files = files[: limit - len(found)]
            for each in files if as_json else ():
                desk.screen.json(each)
            found += files
            last = files[-1].get("id") if files else None
            more = bool(page.get("has_more")) and last not in {None, cursor}
            cursor = last
        if not as_json:
            desk.screen.table(["id", "bytes", "purpose", "created", "name"], [_row(each) for each in found])
            desk.screen.note(_count(found, after=cursor if more else None, session=session))
        return exits.DONE

    return desk.run(work)


@file.command("get", help=GET)
@click.argument("file_id", metavar="ID")
@_common
@pass_session
def get(session: Session, /, *, file_id: str, as_json: bool, provider: str | None, queue: str) -> int:
    desk = Desk(session, provider=provider, queue=queue)

    async def work(bus: AsyncBus) -> int:
        found = await desk.outcome(await bus.file(file_id, **desk.options))
        (desk.screen.json if as_json else desk.screen.pretty)(found)
        return exits.DONE

    return desk.run(work)


@file.command("content", help=CONTENT)
@click.argument("file_id", metavar="ID")
@click.option("-o", "--output", metavar="FILE|-", help="Where to: a file, a folder, or `-` for stdout.")
@click.option("--to", metavar="URL", help="Storage that the worker writes to, instead: s3://…, gs://…, az://…")
@_common
@pass_session
def content(
    session: Session,
    /,
    *,
    file_id: str,
    output: str | None,
    to: str | None,
    as_json: bool,
    provider: str | None,
    queue: str,
) -> int:
    desk = Desk(session, provider=provider, queue=queue)
    if to is None:
        check_output(desk.screen, output, as_json=as_json)
    elif output is not None:
        raise click.UsageError("-o FILE or --to URL: one of them")

    async def work(bus: AsyncBus) -> int:
        target = None if to is None else {"url": to}
        kept = await desk.outcome(await bus.download(file_id, to=target, **desk.options), "the provider to Redis")
        if to is None:
            saved = await save(bus, desk.screen, kept, output)
            if saved is not None and as_json:
                desk.screen.json(saved.described)
            elif saved is not None:
                desk.screen.note(f"{saved.path}: {saved.bytes:,} bytes, sha256 {saved.sha256}")
        elif as_json:
            desk.screen.json(kept)
        else:
            desk.screen.answer(f"{kept['url']}\n")
        return exits.DONE

    return desk.run(work)


@file.command("delete", help=DELETE)
@click.argument("file_ids", nargs=-1, required=True, metavar="ID...")
@_common
@pass_session
def delete(session: Session, /, *, file_ids: tuple[str, ...], as_json: bool, provider: str | None, queue: str) -> int:
    desk = Desk(session, provider=provider, queue=queue)

    async def work(bus: AsyncBus) -> int:
        code = exits.DONE
        for file_id in dict.fromkeys(file_ids):
            try:
                gone = await desk.outcome(await bus.delete_file(file_id, **desk.options))
            except TaskFailed as exc:
                if len(file_ids) == 1:
                    raise
                desk.screen.error(f"{file_id}: {exc.info.code}: {exc.info.message}")
                code = exits.FAILED
                continue
            if as_json:
                desk.screen.json(gone)
            else:
                desk.screen.answer(f"{file_id} deleted\n")
        return code

    return desk.run(work)


def _described(made: dict[str, Any]) -> str:
    words = [made.get("filename"), _bytes(made), made.get("purpose"), _expiry(made)]
    return ", ".join(str(word) for word in words if word)


def _row(each: dict[str, Any]) -> list[str]:
    size = each.get("bytes")
    return [
        str(each.get("id") or "-"),
        f"{size:,}" if isinstance(size, int) else "-",
        str(each.get("purpose") or "-"),
        _time(each.get("created_at")),
        str(each.get("filename") or "-"),
    ]


def _count(found: list[dict[str, Any]], *, after: str | None, session: Session) -> str:
    if not found:
        return "no files"
    more = f"; go on with: {session.command('file', 'list', '--after', after)}" if after else ""
    return f"{len(found):,} listed{more}"


def _bytes(made: dict[str, Any]) -> str | None:
    return f"{made['bytes']:,} bytes" if isinstance(made.get("bytes"), int) else None


def _expiry(made: dict[str, Any]) -> str | None:
    return f"until {_time(made['expires_at'])}" if made.get("expires_at") else None


def _time(at: Any) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if isinstance(at, int) else str(at or "-")
