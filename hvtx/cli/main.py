"""One command line run: the one place where errors become exit codes."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress

from hvtx.api.calls import (
    begin_program,
    end_as_told,
    interrupt_at_ends,
    lacks_frame,
    unexpected,
    with_notes,
)
from hvtx.cli import quick
from hvtx.cli.interrupts import exit_code, interruptible
from hvtx.cli.names import PROGRAM, print_commands, printed
from hvtx.cli.streams import (
    Answers,
    Messages,
    hold_notices,
    never_fail_to_write,
    open_what_is_closed,
    say_held,
    taken_notices,
)
from hvtx.errors import HvtxError, OutputLost, SeveralFailed, UsageError
from hvtx.loader import module_named
from hvtx.model.typed import Any, cast


def program(arguments: Sequence[str]) -> int:
    """Run a command line as a process of its own; returns its exit code, or ends by a signal."""
    try:
        interrupt_at_ends()
        code = run(arguments)
        try:
            sys.stdout.flush()
        except OSError:
            code = code or 1
        with suppress(OSError):  # what could not be told changes nothing
            sys.stderr.flush()
    except KeyboardInterrupt:  # before anything was begun, or when all was done
        code = exit_code()
    end_as_told(code)
    return code


def run(arguments: Sequence[str]) -> int:
    """Run a command line; returns its exit code."""
    os.umask(os.umask(0o077) & 0o077)  # what takes from the owner would shut us out of our own
    open_what_is_closed()
    begin_program()
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = cast("Any", Answers(sys.stdout)), cast("Any", Messages(sys.stderr))
    try:
        return _run(arguments)
    except KeyboardInterrupt:  # a second one, while the first was being told
        return exit_code()
    finally:
        say_held()
        sys.stdout, sys.stderr = streams
        print_commands(None)


def _run(arguments: Sequence[str]) -> int:
    head = list(arguments)
    before_command = head[: head.index("--")] if "--" in head else head
    _name_store(before_command)
    as_json = "--json" in before_command
    debug = "--debug" in before_command
    if as_json:
        hold_notices()
    never_fail_to_write()
    try:
        return _answer(head)
    except HvtxError as problem:
        if isinstance(problem, UsageError) and problem.hint is None:
            from hvtx.cli.usage import command_path, help_hint

            problem.hint = help_hint(command_path(head))
        if isinstance(problem, OutputLost):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or Python would fail on it once more
        return _tell(problem, as_json=as_json, debug=debug)
    except KeyboardInterrupt:
        return exit_code()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except (OSError, MemoryError) as problem:
        return _tell(with_notes(unexpected(problem), problem), as_json=as_json, debug=debug)
    except Exception as problem:  # noqa: BLE001 - a mistake of ours is one line too, unless asked
        if lacks_frame(problem):
            told = with_notes(unexpected(MemoryError()), problem)
            return _tell(told, as_json=as_json, debug=debug)
        words = f"unexpected {type(problem).__name__}: {problem}"
        bug = HvtxError(words, hint="this is a bug in hvtx; --debug shows where", code="bug")
        return _tell(bug, as_json=as_json, debug=debug)


def _name_store(words: Sequence[str]) -> None:
    """What is printed of commands names the store that these words name before their command."""
    if not words or not words[0].startswith("-"):
        return
    own_commands = module_named("hvtx.model.own_commands")
    given = own_commands.given_before(words)
    if given:
        print_commands(lambda text: own_commands.with_given(text, given))


def _answer(head: list[str]) -> int:
    """Run a command line; click is loaded where it is to read it."""
    completes = f"_{PROGRAM.upper()}_COMPLETE" in os.environ
    if completes:
        module_named("hvtx.cli.completion").register()
    _refuse_bytes(head)
    command = None if completes else quick.command(head)
    if command is None:
        from hvtx.cli.by_click import answer

        return answer(head)
    with interruptible():
        code = command()
    sys.stdout.flush()
    return code or 0


def _refuse_bytes(arguments: Sequence[str]) -> None:
    try:
        "".join(arguments).encode()
    except UnicodeEncodeError as problem:
        raise UsageError(
            "an argument is not valid UTF-8",
            hint="give names and paths in UTF-8",
        ) from problem


def _tell(problem: HvtxError, *, as_json: bool, debug: bool) -> int:
    import click

    if isinstance(problem, SeveralFailed) and not as_json:
        for part in problem.parts:
            _tell(part, as_json=False, debug=debug)
        return problem.exit_code
    if debug:
        import traceback

        click.echo(_plain("".join(traceback.format_exception(problem))), err=True)
    message = printed(" ".join(problem.message.split()))
    notes = getattr(problem, "__notes__", ())
    told = "; ".join(filter(None, (problem.hint, *notes))) or problem.default_hint
    hint = printed(" ".join(told.split()))
    if as_json:
        from hvtx.documents.encoding import to_json

        told_too = [notice._asdict() for notice in taken_notices()]
        error = {"code": problem.code, "message": message, "hint": hint}
        said = {"notices": told_too} if told_too else {}
        click.echo(to_json({"error": error, **said}), err=True)
        return problem.exit_code
    if _in_journal():
        click.echo(f"<3>error: {_plain(message)}", err=True)
        click.echo(f"<5>hint: {_plain(hint)}", err=True)
        return problem.exit_code
    wanted = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    colour = wanted and sys.stderr.isatty()
    label = "\x1b[1;31merror:\x1b[0m" if colour else "error:"
    click.echo(f"{label} {_plain(message)}", err=True)
    click.echo(f"hint: {_plain(hint)}", err=True)
    return problem.exit_code


def _in_journal() -> bool:
    """Whether the journal reads what is said; it takes a line's priority from its beginning."""
    if "JOURNAL_STREAM" not in os.environ:
        return False
    from hvtx.api.terminal import under_journal

    return under_journal()


def _plain(text: str) -> str:
    """Text without anything that a terminal would obey."""
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in text)
