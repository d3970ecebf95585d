"""`deltabus embeddings`, `models`, `speech`, `transcription`, `images`: one call of a provider each."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from deltabus.cli import exits
from deltabus.cli.desk import Desk, desk_options
from deltabus.cli.local import Given, check_output, save
from deltabus.cli.options import Command, Session, pass_session
from deltabus.cli.params import PARAM, params_of

if TYPE_CHECKING:
    from deltabus.bus import AsyncBus

EMBEDDINGS = """Print the vectors of texts: one JSON array a line, in the order of the texts.

\b
Examples:
  deltabus embeddings "a text" "another" -m text-embedding-3-small
  deltabus embeddings - -m text-embedding-3-small < text.txt
  deltabus embeddings "a text" --param dimensions=256 --json | jq .usage
"""

MODELS = """List the models that a provider has, one a line.

\b
Examples:
  deltabus models
  deltabus models -p vllm --json | jq -r '.data[].id'
"""

SPEECH = """Have a text spoken: to -o FILE, or to stdout where that is a file or a pipe.

\b
Examples:
  deltabus speech "Hello there" -m tts-1 -o hello.mp3
  deltabus speech - -m tts-1 --voice nova --format opus -o news.opus < news.txt
  deltabus speech "Hello there" -m tts-1 | mpv -
"""

TRANSCRIPTION = """Have speech written down, and print the text.

FILE is read here (`-` is stdin) and goes through Redis, piece by piece; it is deleted there afterwards. With
--path, the worker reads a file of its own (under its `file_roots`); with --url, it fetches one.

\b
Examples:
  deltabus transcription meeting.mp3 -m whisper-1
  deltabus transcription --url https://example.com/talk.ogg -m whisper-1 --param 'language="en"'
  deltabus transcription meeting.mp3 -m whisper-1 --param 'response_format="verbose_json"' --json
"""

IMAGES = """Have pictures drawn after a description.

With -o, what comes as bytes is written to FILE; several get numbers, as cat-1.png, cat-2.png. A picture that
the provider keeps is printed as its URL.

\b
Examples:
  deltabus images "A cat on a bus" -m gpt-image-1 -o cat.png
  deltabus images "A cat on a bus" -m dall-e-3 --param 'size="1024x1024"'
  deltabus images "A cat on a bus" -n 2 --json
"""

#: Fields of the request that have an option of their own.
_OWN: Final = {"model": "--model", "input": "the argument", "prompt": "the argument", "source": "FILE"}

_MODEL = click.option("-m", "--model", help="Model to ask for; it also picks the provider. Default: the provider's.")
_common = desk_options("chat")


def _text(value: str, name: str) -> str:
    text = sys.stdin.read() if value == "-" else value
    if not text.strip():
        raise click.UsageError(f"{name} is empty")
    return text


@click.command("embeddings", cls=Command, help=EMBEDDINGS)
@click.argument("texts", nargs=-1, required=True, metavar="TEXT...")
@_MODEL
@PARAM
@_common
@pass_session
def embeddings(
    session: Session,
    /,
    *,
    texts: tuple[str, ...],
    model: str | None,
    params: tuple[str, ...],
    as_json: bool,
    provider: str | None,
    queue: str,
) -> int:
    more = params_of(params, _OWN)
    inputs = [_text(text, "TEXT") for text in texts]
    desk = Desk(session, provider=provider, queue=queue)

    async def work(bus: AsyncBus) -> int:
        answer = await desk.outcome(await bus.embeddings(inputs, model=model, **desk.options, **more))
        if as_json:
            desk.screen.json(answer)
        else:
            for each in sorted(answer["data"], key=lambda item: int(item.get("index") or 0)):
                desk.screen.json(each["embedding"])
        return exits.DONE

    return desk.run(work)


@click.command("models", cls=Command, help=MODELS)
@_common
@pass_session
def models(session: Session, /, *, as_json: bool, provider: str | None, queue: str) -> int:
    desk = Desk(session, provider=provider, queue=queue)

    async def work(bus: AsyncBus) -> int:
        answer = await desk.outcome(await bus.models(**desk.options))
        if as_json:
            desk.screen.json(answer)
        else:
            for name in sorted(str(each["id"]) for each in answer["data"]):
                desk.screen.row(name)
        return exits.DONE

    return desk.run(work)


@click.command("speech", cls=Command, help=SPEECH)
@click.argument("text")
@_MODEL
@click.option("--voice", default="alloy", show_default=True, help="Who speaks.")
@click.option("--format", "form", help="mp3, opus, aac, flac, wav or pcm. Default: the provider's.")
@click.option("-o", "--output", metavar="FILE|-", help="Where to: a file, a folder, or `-` for stdout.")
@PARAM
@_common
@pass_session
def speech(
    session: Session,
    /,
    *,
    text: str,
    model: str | None,
    voice: str,
    form: str | None,
    output: str | None,
    params: tuple[str, ...],
    as_json: bool,
    provider: str | None,
    queue: str,
) -> int:
    more = params_of(params, {**_OWN, "voice": "--voice", "response_format": "--format", "to": "-o"})
    desk = Desk(session, provider=provider, queue=queue)
    check_output(desk.screen, output, as_json=as_json)
    said = _text(text, "TEXT")

    async def work(bus: AsyncBus) -> int:
        task = await bus.speech(said, voice=voice, model=model, response_format=form, **desk.options, **more)
        kept = await desk.outcome(task, "the provider to Redis")
        saved = await save(bus, desk.screen, kept, output)
        if saved is not None and as_json:
            desk.screen.json(saved.described)
        elif saved is not None:
            desk.screen.note(f"{saved.path}: {saved.bytes:,} bytes, {saved.media_type}")
        return exits.DONE

    return desk.run(work)


@click.command("transcription", cls=Command, help=TRANSCRIPTION)
@click.argument("file", required=False, metavar="[FILE|-]")
@click.option("--path", help="A file on the worker's side, instead.")
@click.option("--url", help="A file that the worker fetches, instead.")
@click.option("--filename", metavar="NAME", help="What the provider is to call it; it goes by the suffix.")
@_MODEL
@PARAM
@_common
@pass_session
def transcription(
    session: Session,
    /,
    *,
    file: str | None,
    path: str | None,
    url: str | None,
    filename: str | None,
    model: str | None,
    params: tuple[str, ...],
    as_json: bool,
    provider: str | None,
    queue: str,
) -> int:
    more = params_of(params, {**_OWN, "filename": "--filename"})
    given = Given(file, path=path, url=url)
    desk = Desk(session, provider=provider, queue=queue)

    async def work(bus: AsyncBus) -> int:
        async with given.source(bus, desk.screen) as source:
            name = filename or given.name
            task = await bus.transcription(source, model=model, filename=name, **desk.options, **more)
            answer = await desk.outcome(task, f"{given.doing} to the provider")
        if as_json:
            desk.screen.json(answer)
        else:
            desk.screen.answer(f"{str(answer.get('text', '')).rstrip()}\n")
        return exits.DONE

    return desk.run(work)


@click.command("images", cls=Command, help=IMAGES)
@click.argument("prompt")
@_MODEL
@click.option("-n", "count", type=click.IntRange(min=1), help="How many. Default: the provider's, one.")
@click.option("-o", "--output", metavar="FILE", help="Where to write what comes as bytes.")
@PARAM
@_common
@pass_session
def images(
    session: Session,
    /,
    *,
    prompt: str,
    model: str | None,
    count: int | None,
    output: str | None,
    params: tuple[str, ...],
    as_json: bool,
    provider: str | None,
    queue: str,
) -> int:
    more = params_of(params, {**_OWN, "n": "-n"})
    desk = Desk(session, provider=provider, queue=queue)
    if output is not None:
        check_output(desk.screen, output, as_json=as_json)
    described = _text(prompt, "PROMPT")

    async def work(bus: AsyncBus) -> int:
        answer = await desk.outcome(await bus.images(described, model=model, n=count, **desk.options, **more))
        pictures = answer["data"]
        for number, picture in enumerate(pictures, 1):
            blob = picture.get("blob")
            if output is not None and blob is not None:
                saved = await save(bus, desk.screen, blob, _numbered(output, number if len(pictures) > 1 else None))
                if saved is not None:
                    del picture["blob"]
                    picture["file"] = saved.described
                    desk.screen.note(f"{saved.path}: {saved.bytes:,} bytes, {saved.media_type}")
            elif not as_json:
                desk.screen.answer(f"{picture.get('url') or 'blob ' + blob['id']}\n")
        if as_json:
            desk.screen.json(answer)
        return exits.DONE

    return desk.run(work)


def _numbered(output: str, number: int | None) -> str:
    path = Path(output)
    return output if number is None or path.is_dir() else str(path.with_stem(f"{path.stem}-{number}"))
