"""A command line that click reads: all but those of ``hvtx.cli.quick``."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click

from hvtx.cli.interrupts import exit_code
from hvtx.cli.names import PROGRAM
from hvtx.cli.root import root


def answer(words: Sequence[str]) -> int:
    """Run it; returns the exit code. What click refuses is raised as an error of ours."""
    try:
        code = root.main(args=list(words), prog_name=PROGRAM, standalone_mode=False, obj=words)
        sys.stdout.flush()
    except click.exceptions.Exit as leaving:
        return leaving.exit_code
    except SystemExit:  # click's own way out where a pipe was closed early, and its only one
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except click.exceptions.NoArgsIsHelpError as problem:
        click.echo(problem.format_message(), err=True)
        return 2
    except click.Abort:  # what click makes of an interrupt
        return exit_code()
    except click.ClickException as problem:
        from hvtx.cli.usage import usage_error

        raise usage_error(problem, words) from problem
    return code if isinstance(code, int) else 0
