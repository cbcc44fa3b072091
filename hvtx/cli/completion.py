"""`hvtx completion`: what a shell needs to complete commands, options, and names on record."""

from __future__ import annotations

import click

from hvtx.cli import render
from hvtx.cli.main import PROGRAM


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script of a shell.

    \b
    bash: hvtx completion bash > /etc/bash_completion.d/hvtx
    zsh:  hvtx completion zsh > /usr/local/share/zsh/site-functions/_hvtx
    fish: hvtx completion fish > ~/.config/fish/completions/hvtx.fish

    Names of VMs and networks are completed for whoever may read the store.
    """  # noqa: D301 - click's mark of lines that are to stay as they are
    from click.shell_completion import get_completion_class

    made = get_completion_class(shell)
    assert made is not None  # click has all three
    root = ctx.find_root().command
    render.write(made(root, {}, PROGRAM, f"_{PROGRAM.upper()}_COMPLETE").source())
