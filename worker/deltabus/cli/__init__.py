"""The command line: argument parsing and screens only. One file a noun; nothing here that the API does not do."""

from __future__ import annotations

import atexit
import difflib
import errno
import gc
import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, Final, NoReturn

import click
from click.shell_completion import CompletionItem

from deltabus.cli import exits
from deltabus.cli.options import OPTIONS, Session

#: Objects that are made, and not freed, until Python looks among them for cycles: more than any command's modules have.
GARBAGE: Final = 100_000

#: Descriptors of the standard streams.
STDOUT: Final = 1
STDERR: Final = 2

#: What goes wrong with an output: its reader left, its disk is full, its terminal is gone.
OUTPUT_ERRORS: Final = frozenset({errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})

#: The commands in the order in which one meets them: the module that has each, loaded when it is
#: called, and what the list of commands says of it.
COMMANDS: Final[Mapping[str, tuple[str, str]]] = {
    "demo": ("demo", "See a task go the whole way, with nothing else running."),
    "dev": ("dev", "A private Redis and a worker in this terminal."),
    "worker": ("worker", "Work on queues."),
    "chat": ("chat", "Ask, and stream the answer to the terminal."),
    "file": ("file", "A provider's files: upload, list, get, content, delete."),
    "embeddings": ("calls", "Vectors of texts."),
    "models": ("calls", "The models that a provider has."),
    "speech": ("calls", "Have a text spoken."),
    "transcription": ("calls", "Have speech written down."),
    "images": ("calls", "Have pictures drawn."),
    "enqueue": ("task", "Enqueue a task and print its id."),
    "watch": ("task", "Follow tasks to their end, from any point."),
    "result": ("task", "Wait for a task's result and print it."),
    "cancel": ("task", "Cancel a task, before or while it runs."),
    "dead": ("dead", "What has failed: look, run it again, delete it."),
    "stats": ("stats", "What waits, runs and fails, at this moment."),
    "top": ("top", "The same, live."),
    "providers": ("providers", "Who answers, and how they are."),
    "redis": ("ask", "Ask Redis itself, wherever it is."),
    "check": ("check", "Is all configured, reachable, compatible?"),
    "completion": ("completion", "Teach a shell to complete commands, queues, task ids."),
}

HELP = """Queue language-model work on Redis, run it through any provider, stream the answers back.

\b
Try it, with nothing else running:
  deltabus demo
\b
Play with it, in two terminals:
  deltabus dev
  deltabus chat "hello"
\b
Run it:
  deltabus check              is everything configured, reachable, compatible?
  deltabus worker             work on the queues
  deltabus chat "…"           ask, and stream the answer

Settings come from ./deltabus.toml (or --config, or $DELTABUS_CONFIG), then from the environment
(DELTABUS_REDIS_URL or REDIS_URL, DELTABUS_CONCURRENCY, …), then from the options.

Exit codes: 0 done; 1 the task failed or was cancelled, or is not done; 2 usage or configuration, or a
task that nobody knows; 3 Redis cannot be reached; 130 interrupted with Ctrl+C.
"""


def _version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"deltabus {version('deltabus')}")
        ctx.exit()


def _open_standard_streams() -> None:
    """Where one was closed by whoever started us, the next connection would take its number, and get what we print."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= STDERR:
        os.set_inheritable(descriptor, True)  # a process that we start has the same need
    os.close(descriptor)
    sys.stdout = sys.stdout or os.fdopen(STDOUT, "w", encoding="utf-8", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(STDERR, "w", encoding="utf-8", closefd=False)


class CommandLine(click.Group):
    """Loads the command that is called, and turns its errors into one line and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(f"deltabus.cli.{COMMANDS[cmd_name][0]}"), cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in COMMANDS and not name.startswith("-") and not ctx.resilient_parsing:
            near = difflib.get_close_matches(name, COMMANDS, n=1)
            hint = f"did you mean `{near[0]}`?" if near else f"there are {', '.join(COMMANDS)}"
            raise click.UsageError(f"no command `{name}`; {hint}", ctx)
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Names of commands, without loading them, and options."""
        names = [CompletionItem(name, help=said) for name, (_, said) in COMMANDS.items() if name.startswith(incomplete)]
        return names + click.Command.shell_complete(self, ctx, incomplete)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, said) for name, (_, said) in COMMANDS.items()])

    def main(self, args: Sequence[str] | None = None, prog_name: str | None = None, *_: Any, **__: Any) -> NoReturn:
        """Run one command and exit."""
        # What a command makes is modules, nearly all of it: looking among them for garbage while they load, and
        # three times over at the exit, takes a quarter of the CPU of a short command, and more of a worker that starts.
        gc.set_threshold(GARBAGE)
        atexit.register(gc.freeze)
        _open_standard_streams()
        # An answer may hold what the terminal's encoding, or any encoding, does not have.
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]
        # Where a shell asks what could follow, this answers and ends.
        self._main_shell_completion({"obj": Session()}, "deltabus")
        try:
            code = self._run(args, prog_name or "deltabus")
            sys.stdout.flush()
        except OSError as exc:
            if exc.errno not in OUTPUT_ERRORS:
                raise
            # What is still to be written is written again at the exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            # Where the reader of our output left, as `head` does, there is nothing to say, and nowhere to say it.
            code = exits.PIPE if exc.errno == errno.EPIPE else exits.FAILED
            if exc.errno != errno.EPIPE:
                click.echo(f"error: cannot write {exc.filename or 'the output'}: {exc.strerror}", err=True)
        sys.exit(code)

    def _run(self, args: Sequence[str] | None, prog_name: str) -> int:
        try:
            with self.make_context(prog_name, list(sys.argv[1:] if args is None else args), obj=Session()) as ctx:
                return int(self.invoke(ctx) or exits.DONE)
        except click.exceptions.Exit as exc:
            return exc.exit_code
        except click.exceptions.NoArgsIsHelpError as exc:
            click.echo(exc.ctx.get_help(), err=True)
            return exits.USAGE
        except (Exception, KeyboardInterrupt) as exc:
            message = exits.explain(exc)
            if message is None:
                raise
            click.echo(f"error: {message}", err=True)
            return exits.code(exc)


main = CommandLine(
    "deltabus",
    help=HELP,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    params=[
        *OPTIONS,
        click.Option(
            ["--version"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_version,
            help="Show the version and exit.",
        ),
    ],
)
