"""`deltabus completion`: the script by which a shell completes commands, options, queues, providers and tasks."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from deltabus.cli import exits
from deltabus.cli.options import Command

#: What the shells and click agree on; see `CommandLine.main`.
VARIABLE = "_DELTABUS_COMPLETE"

HELP = """Print the script by which a shell completes `deltabus`: commands, options, and the queues, providers
and task ids that there are. It works in each shell that has read it.

\b
Examples:
  eval "$(deltabus completion bash)"                                     in ~/.bashrc
  eval "$(deltabus completion zsh)"                                      in ~/.zshrc, after compinit
  deltabus completion fish > ~/.config/fish/completions/deltabus.fish
"""


@click.command("completion", cls=Command, help=HELP)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, *, shell: str) -> int:
    kind = get_completion_class(shell)
    assert kind is not None, "click has all that the argument takes"
    click.echo(kind(ctx.find_root().command, {}, "deltabus", VARIABLE).source())
    return exits.DONE
