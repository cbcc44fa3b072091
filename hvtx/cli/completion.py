"""`hvtx completion`: what a shell needs to complete commands, options, and names on record."""

from __future__ import annotations

from collections.abc import Sequence

import click

from hvtx.cli import render
from hvtx.cli.names import PROGRAM


def register() -> None:
    """Let bash complete words with ``=`` and ``:`` in them, at which it breaks what is typed."""
    from click.shell_completion import BashComplete, CompletionItem, add_completion_class

    class Bash(BashComplete):
        def get_completion_args(self) -> tuple[list[str], str]:
            """The words before the cursor, and what is begun there; broken ones put together."""
            args, incomplete = super().get_completion_args()
            words = joined([*args, incomplete])
            self.typed = words[-1]
            return words[:-1], words[-1]

        def format_completion(self, item: CompletionItem) -> str:
            """What bash puts in the place of the last piece."""
            kept = self.typed.rpartition(":")[0]
            value = str(item.value)
            if item.type == "plain" and kept and value.startswith(f"{kept}:"):
                value = value[len(kept) + 1 :]
            return f"{item.type},{value}"

    add_completion_class(Bash)


def joined(pieces: Sequence[str]) -> list[str]:
    """A command line as bash breaks it, with ``a``, ``:``, ``b`` one word again (pure)."""
    words: list[str] = []
    glue = False
    for piece in pieces:
        breaks = piece != "" and not piece.strip(":=")
        if words and piece and (glue or breaks):
            words[-1] += piece
        else:
            words.append(piece)
        glue = breaks
    return words


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script of a shell.

    \b
    bash: hvtx completion bash > /etc/bash_completion.d/hvtx
    zsh:  hvtx completion zsh > /usr/local/share/zsh/site-functions/_hvtx
    fish: hvtx completion fish > ~/.config/fish/completions/hvtx.fish

    Files, words of options, and devices are completed for everybody; names of VMs and networks for
    whoever may read the store.
    """  # noqa: D301 - click's mark of lines that are to stay as they are
    from click.shell_completion import get_completion_class

    made = get_completion_class(shell)
    assert made is not None  # click has all three
    root = ctx.find_root().command
    render.write(made(root, {}, PROGRAM, f"_{PROGRAM.upper()}_COMPLETE").source())
