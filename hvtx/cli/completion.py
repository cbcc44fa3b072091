"""`hvtx completion`: what a shell needs to complete commands, options, and names on record."""

from __future__ import annotations

from collections.abc import Sequence

import click

from hvtx import documents
from hvtx.cli import render
from hvtx.cli.common import as_json
from hvtx.cli.names import PROGRAM

# click's scripts but for one thing: of ``--kernel=vml`` what stands behind the sign is completed.
# Of fish's, a comma in a description does not end it.
_ZSH = """#compdef %(prog_name)s

%(complete_func)s() {
    local -a words_alone words_with_help response
    local kind word help
    (( ! $+commands[%(prog_name)s] )) && return 1

    response=("${(@f)$(env COMP_WORDS="${words[*]}" COMP_CWORD=$((CURRENT-1)) \
        %(complete_var)s=zsh_complete %(prog_name)s)}")
    [[ "$PREFIX" == --*=* ]] && compset -P 1 '*='

    for kind word help in ${response}; do
        case "$kind" in
            dir) _path_files -/ ;;
            file) _path_files -f ;;
            plain)
                if [[ "$help" == "_" ]]; then
                    words_alone+=("$word")
                else
                    words_with_help+=("$word:$help")
                fi ;;
        esac
    done
    (( $#words_with_help )) && _describe -V unsorted words_with_help -U
    (( $#words_alone )) && compadd -U -i "$IPREFIX" -V unsorted -a words_alone
}

if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    %(complete_func)s "$@"
else
    compdef %(complete_func)s %(prog_name)s
fi
"""
_FISH = """function %(complete_func)s
    set -l typed (commandline --cut-at-cursor --current-token)
    set -l option ""
    if string match --quiet -- "--*=*" "$typed"
        set option (string split --max 1 "=" -- "$typed")[1]"="
    end
    set -l response (env %(complete_var)s=fish_complete COMP_WORDS=(commandline -cp) \
        "COMP_CWORD=$typed" %(prog_name)s)

    for line in $response
        set -l parts (string split --max 1 "," -- $line)
        switch $parts[1]
            case dir
                for place in (__fish_complete_directories $parts[2])
                    echo -- $option$place
                end
            case file
                for path in (__fish_complete_path $parts[2])
                    echo -- $option$path
                end
            case plain
                echo -- $option$parts[2]
        end
    end
end

complete --no-files --command %(prog_name)s --arguments "(%(complete_func)s)"
"""


def register() -> None:
    """Let shells complete words with ``=`` and ``:`` in them; bash breaks there what is typed."""
    from click.shell_completion import (
        BashComplete,
        CompletionItem,
        FishComplete,
        ZshComplete,
        add_completion_class,
    )

    class Zsh(ZshComplete):
        source_template = _ZSH

    class Fish(FishComplete):
        source_template = _FISH

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

    for made in (Bash, Zsh, Fish):
        add_completion_class(made)


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
@as_json
@click.pass_context
def completion(ctx: click.Context, shell: str, json_: bool) -> None:
    """Print the completion script of a shell.

    \b
    bash: hvtx completion bash > /etc/bash_completion.d/hvtx
    zsh:  hvtx completion zsh > /usr/local/share/zsh/site-functions/_hvtx
    fish: hvtx completion fish > ~/.config/fish/completions/hvtx.fish

    Files, words of options, and devices are completed for everybody; names of VMs and networks for
    whoever may read the store.
    """  # noqa: D301 - click's mark of lines that are to stay as they are
    from click.shell_completion import get_completion_class

    register()
    made = get_completion_class(shell)
    assert made is not None  # click has all three
    root = ctx.find_root().command
    script = made(root, {}, PROGRAM, f"_{PROGRAM.upper()}_COMPLETE").source()
    if json_:
        render.emit_json(documents.completion.document(shell, script))
    else:
        render.write(script)
