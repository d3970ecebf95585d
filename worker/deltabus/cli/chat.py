"""`deltabus chat`: ask, and stream the answer to the terminal."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
import msgspec

from deltabus.cli import complete, exits
from deltabus.cli.enclosed import Enclosed
from deltabus.cli.following import follow, run
from deltabus.cli.options import Command, Session, pass_session
from deltabus.cli.params import PARAM, params_of
from deltabus.cli.queues import watch_for_staff
from deltabus.cli.screens import Screen
from deltabus.cli.transcript import Transcript

HELP = """Ask a model, through the queue, and stream the answer to the terminal.

The answer goes to stdout as it arrives; everything else (what the model thinks, retries, the task's
state) goes to stderr. Ctrl+C leaves the task running and says how to come back to it.

\b
Examples:
  deltabus chat "What is a Redis stream?"
  deltabus chat -m gpt-5-mini -s "Answer in one line." "What is RQ?"
  git diff | deltabus chat - -s "Write a commit message for this diff."
  deltabus chat "What is in this image?" --image picture.jpg
  deltabus chat "Sum it up." --attach report.pdf --attach https://example.com/annex.pdf
  deltabus chat --file conversation.json "And then?"
  deltabus chat "hello" --param temperature=0.2 --param 'stop=["\\n"]'
  deltabus chat "hello" -p echo --param 'echo={"words": 200, "interval": 0.02}'
  deltabus chat "hello" --json | jq .type
"""

#: Fields of the request that have an option of their own.
_OWN_OPTION = {"messages": "--file", "model": "--model", "stream": "--no-stream"}


@click.command("chat", cls=Command, help=HELP)
@click.argument("prompt", required=False)
@click.option("-m", "--model", help="Model to ask for; it also picks the provider. Default: the provider's.")
@click.option(
    "-p", "--provider", shell_complete=complete.providers, help="Configured provider to ask, whatever the model."
)
@click.option("-s", "--system", help="System message to put first.")
@click.option(
    "--queue", default="chat", show_default=True, shell_complete=complete.queues, help="Queue to put the task on."
)
@PARAM
@click.option("--file", "file", metavar="PATH|-", help="JSON: an array of messages, or a whole request.")
@click.option("--image", "images", multiple=True, metavar="PATH|URL", help="A picture that goes with it; repeatable.")
@click.option("--attach", "files", multiple=True, metavar="PATH|URL", help="A file that goes with it; repeatable.")
@click.option("--audio", "sounds", multiple=True, metavar="PATH|URL", help="A sound that goes with it; repeatable.")
@click.option("--no-stream", is_flag=True, help="Ask for the answer in one piece.")
@click.option("--json", "as_json", is_flag=True, help="Print the task's events, one JSON a line.")
@pass_session
def chat(
    session: Session,
    *,
    prompt: str | None,
    model: str | None,
    provider: str | None,
    system: str | None,
    queue: str,
    params: tuple[str, ...],
    file: str | None,
    images: tuple[str, ...],
    files: tuple[str, ...],
    sounds: tuple[str, ...],
    no_stream: bool,
    as_json: bool,
) -> int:
    if prompt == "-" and file == "-":
        raise click.UsageError("PROMPT and --file cannot both be read from stdin")
    request = _request(prompt, system, params, file)
    if model is not None:
        request["model"] = model
    if no_stream:
        request["stream"] = False
    enclosed = Enclosed({"image": images, "file": files, "audio": sounds})
    screen = Screen()
    transcripts: dict[str, Transcript] = {}

    async def work() -> int:
        from deltabus.bus import AsyncBus

        async with AsyncBus(settings=session.settings) as bus, enclosed.attachments(bus, screen) as attachments:
            task = await bus.chat(request, provider=provider, queue=queue, attachments=attachments or None)
            transcript = transcripts[task.id] = Transcript()
            await follow(task, screen, transcript, json=as_json, waiting=watch_for_staff(session, screen, queue))
        return exits.DONE

    return run(session, screen, transcripts, work)


def _request(prompt: str | None, system: str | None, params: tuple[str, ...], file: str | None) -> dict[str, Any]:
    """The request that the options describe.

    Raises:
        click.UsageError: they describe none; the message says what is wrong and how to write it.
    """
    request = _read_request(file) if file is not None else {}
    messages = request.setdefault("messages", [])
    if not isinstance(messages, list):
        raise click.UsageError(f"--file {file}: `messages` must be an array")
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    if prompt is not None:
        messages.append({"role": "user", "content": sys.stdin.read() if prompt == "-" else prompt})
    if not messages or (prompt is None and file is None):
        raise click.UsageError('give a PROMPT, such as `deltabus chat "hello"`, `-` for stdin, or --file')
    return request | params_of(params, _OWN_OPTION)


def _read_request(file: str) -> dict[str, Any]:
    try:
        text = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        value = msgspec.json.decode(text)
    except OSError as exc:
        raise click.UsageError(f"--file {file}: {exc.strerror or exc}") from exc
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise click.UsageError(f"--file {file}: not JSON: {exc}") from exc
    if isinstance(value, list):
        return {"messages": value}
    if isinstance(value, dict):
        return value
    raise click.UsageError(f"--file {file}: must hold an array of messages or a request object")
