"""The command line: global options, lazy commands, and the one place where errors become exits."""

from __future__ import annotations

import errno
import io
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from keyword import iskeyword
from typing import TYPE_CHECKING, Any, cast

import click

from hvtx.errors import (
    HostRefused,
    HvtxError,
    NotFound,
    NotPermitted,
    OutputLost,
    StoreError,
    UsageError,
)

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

PROGRAM = "hvtx"
DEFAULT_CONFIG = "/etc/hvtx/config.toml"
SECONDS = r"([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?"  # `float` takes more: nan, 1_0, blanks
DAY = 86400
FIREWALLS = ("auto", "nftables", "iptables")

# name -> (module, one line of help); a command's module is imported when it is called.
COMMANDS: Mapping[str, tuple[str, str]] = {
    "network": ("hvtx.cli.network", "Make, list, show and remove networks."),
    "vm": ("hvtx.cli.vm", "Make, run, stop, show and remove VMs."),
    "gc": ("hvtx.cli.gc", "Show or remove what dead VMs and interrupted operations left."),
    "recover": ("hvtx.cli.gc", "Resolve interrupted operations; after a reboot, rebuild."),
    "repair": ("hvtx.cli.gc", "Put back what was flushed under running VMs and networks."),
    "intents": ("hvtx.cli.look", "Show running and interrupted operations."),
    "log": ("hvtx.cli.look", "Show what was made, removed and kept, and why."),
    "explain": ("hvtx.cli.look", "Tell whose an interface, address, port or mark is."),
    "store": ("hvtx.cli.store", "Back up the state store, and put a backup back."),
    "metrics": ("hvtx.cli.metrics", "Numbers for Prometheus: VMs, resources, what gc would do."),
    "doctor": ("hvtx.cli.doctor", "Check this host."),
    "import": ("hvtx.cli.adopt", "Take over VMs that another tool made."),
    "adopt": ("hvtx.cli.adopt", "Take over one device or rule that you vouch for."),
    "completion": ("hvtx.cli.completion", "Complete words in bash, zsh or fish: the script."),
    "systemd": ("hvtx.cli.systemd", "Recover at boot and collect by the hour: the units."),
}


class Group(click.Group):
    """A group that knows which of its commands was probably meant."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; raises UsageError."""
        name = args[0]
        known = ctx.resilient_parsing or name.startswith("-") or self.get_command(ctx, name)
        if not known:
            raise _no_command(name, self, ctx.command_path)
        return super().resolve_command(ctx, args)


class LazyGroup(Group):
    """A group whose commands are imported when called, not when listed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every command, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command's module."""
        if cmd_name not in COMMANDS:
            return None
        module = import_module(COMMANDS[cmd_name][0])
        name = f"{cmd_name}_" if iskeyword(cmd_name) else cmd_name
        command: click.Command = getattr(module, name)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; Ctrl-C becomes an error like others, which click would not make it."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as problem:
            raise _interrupted() from problem
        except RuntimeError as problem:
            # what asyncio, in pyroute2, makes of Ctrl-C; nothing else stops its loop
            if "Event loop stopped before" not in str(problem):
                raise
            raise _interrupted() from problem

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, words) for name, (_, words) in COMMANDS.items()])


def _interrupted() -> HvtxError:
    hint = (
        "what was unfinished is taken back, what was committed stands; `hvtx intents` shows whether"
        " anything is left to `hvtx recover`"
    )
    error = HvtxError("interrupted", hint=hint, code="interrupted")
    error.exit_code = 130
    return error


def _complete_place(
    _ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Leave names of files and directories to the shell."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type="file" if param.name == "config" else "dir")]


def _complete_firewall(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    return [word for word in FIREWALLS if word.startswith(incomplete)]


def _show_version(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    """Print it and leave; only here is it looked up."""
    if value and not ctx.resilient_parsing:
        from hvtx import __version__

        click.echo(f"{PROGRAM} {__version__}")
        ctx.exit()


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    help="Transactional network resources for virtual machines.",
)
@click.option(
    "--state-dir",
    metavar="DIR",
    shell_complete=_complete_place,
    help="State store [/var/lib/hvtx; HVTX_STATE_DIR].",
)
@click.option(
    "--run-dir",
    metavar="DIR",
    shell_complete=_complete_place,
    help="Locks and sockets [/run/hvtx; HVTX_RUN_DIR].",
)
@click.option(
    "--firewall",
    metavar="auto|nftables|iptables",
    shell_complete=_complete_firewall,
    help="For new networks [auto; HVTX_FIREWALL].",
)
@click.option(
    "--config",
    metavar="FILE",
    shell_complete=_complete_place,
    help=f"Settings [{DEFAULT_CONFIG}; HVTX_CONFIG].",
)
@click.option(
    "--lock-timeout", metavar="SECONDS", help="Wait for other operations [10; HVTX_LOCK_TIMEOUT]."
)
@click.option("-v", "--verbose", is_flag=True, help="Say on standard error what is done.")
@click.option("--debug", is_flag=True, help="The same, with tracebacks of errors.")
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_show_version,
    help="Show the version and exit.",
)
@click.pass_context
def root(ctx: click.Context, /, **options: Any) -> None:
    """Keep the global options for the command, beside the words of the whole command line."""
    ctx.obj = {**options, "arguments": ctx.obj or ()}


def settings(options: Mapping[str, Any]) -> Any:
    """Flag beats environment beats file beats default; raises UsageError, NotFound."""
    from hvtx.engine.runtime import Settings

    named = options.get("config")
    if named == "":
        raise UsageError("--config is empty", hint="--config /dev/null is a file of no settings")
    named = named or os.environ.get("HVTX_CONFIG") or None
    path = named or DEFAULT_CONFIG
    known = _from_file(path, explicit=named is not None)

    def value(name: str, default: str) -> str:
        flag, variable = f"--{name.replace('_', '-')}", f"HVTX_{name.upper()}"
        if options.get(name) == "":
            raise UsageError(f"{flag} is empty", hint=f"give a value, or leave {flag} out")
        for where, found in ((flag, options.get(name)), (variable, os.environ.get(variable))):
            if found:
                return _checked(name, str(found), where)
        return str(known.get(name, default))  # the file is checked already

    return Settings(
        group=value("group", "") or None,
        tap_user=value("tap_user", "") or None,
        vm_user=value("vm_user", "auto"),
        history_lines=int(value("history_lines", "100000")),
        state_directory=os.path.abspath(value("state_dir", "/var/lib/hvtx")),
        run_directory=os.path.abspath(value("run_dir", "/run/hvtx")),
        firewall=value("firewall", "auto"),
        lock_timeout=float(value("lock_timeout", "10")),
    )


def _checked(name: str, text: str, where: str) -> str:
    """The text of a setting, if it is one, and ``where`` it was found (pure). Raises UsageError."""
    good, hint = text.isprintable(), "write it without control characters and stray bytes"
    if name == "firewall":
        good, hint = text in FIREWALLS, f"it is one of {', '.join(FIREWALLS)}"
    elif name == "lock_timeout":
        good = bool(re.fullmatch(SECONDS, text)) and float(text) <= DAY
        hint = f"it is a number of seconds from 0 to {DAY}; 0 does not wait at all"
    elif name == "history_lines":
        good = bool(re.fullmatch("[0-9]{3,10}", text)) and 100 <= int(text) <= 10**9
        hint = f"it is a number from 100 to {10**9}: how many lines of the history are kept"
    if not good:
        raise UsageError(f"{where} cannot be {_short(text)}", hint=hint)
    return text


def _short(text: str) -> str:
    """What somebody wrote, quoted; its beginning, if it is no line for a person to read."""
    return repr(text if len(text) <= 40 else f"{text[:39]}…")


_KEYS = {
    *("state_dir", "run_dir", "firewall", "lock_timeout", "history_lines"),
    *("group", "tap_user", "vm_user"),
}
_NUMBERS = {"lock_timeout", "history_lines"}


_OF_THE_HOST = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.EINTR})


def _from_file(path: str, *, explicit: bool) -> dict[str, Any]:
    if not explicit and not os.path.exists(path):
        return {}
    import tomllib

    from hvtx.engine.files import read_configuration

    try:
        found = tomllib.loads(read_configuration(path).decode())
    except FileNotFoundError as problem:
        raise NotFound(
            f"the configuration {path} does not exist",
            hint="make it, or name another: --config FILE, or HVTX_CONFIG",
        ) from problem
    except PermissionError as problem:
        raise NotPermitted(
            f"the configuration {path} cannot be read by this user",
            hint=f"run hvtx as root, or make it readable: chmod 644 {path}",
        ) from problem
    except (OSError, ValueError, RecursionError) as problem:
        if getattr(problem, "errno", None) in _OF_THE_HOST:
            raise HostRefused(
                f"the configuration {path} could not be read: {problem.args[-1]}",
                hint="nothing was done; try again when the host has what is lacking",
            ) from problem
        raise UsageError(
            f"the configuration {path} is not understood: {problem}",
            hint='it is TOML, one `key = value` a line: firewall = "nftables"',
        ) from problem
    unknown = sorted(set(found) - _KEYS)
    if unknown:
        raise UsageError(
            f"the configuration {path} has unknown keys: {', '.join(unknown)}",
            hint=f"known are {', '.join(sorted(_KEYS))}",
        )
    for name, entry in found.items():
        number = isinstance(entry, int | float) and not isinstance(entry, bool)
        if not (number if name in _NUMBERS else isinstance(entry, str) and entry):
            kind = "a number" if name in _NUMBERS else "a text"
            raise UsageError(
                f"the configuration {path}: {name} is not {kind}",
                hint=f"{name} = 10" if name in _NUMBERS else f'write it in quotes: {name} = "…"',
            )
        _checked(name, str(entry), f"{name} of {path}")
    return found


# -- running ---------------------------------------------------------------------------------------


def run(arguments: Sequence[str]) -> int:
    """Run a command line; returns its exit code."""
    os.umask(os.umask(0o077) & 0o077)  # what takes from the owner would shut us out of our own
    _open_what_is_closed()
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = cast("Any", _Answers(sys.stdout)), cast("Any", _Messages(sys.stderr))
    try:
        return _run(arguments)
    except KeyboardInterrupt:  # a second one, while the first was being told
        return 130
    finally:
        sys.stdout, sys.stderr = streams


def _run(arguments: Sequence[str]) -> int:
    head = list(arguments)
    before_command = head[: head.index("--")] if "--" in head else head
    as_json = "--json" in before_command
    debug = "--debug" in before_command
    _never_fail_to_write()
    try:
        if f"_{PROGRAM.upper()}_COMPLETE" in os.environ:
            import_module("hvtx.cli.completion").register()
        _refuse_bytes(head)
        code = root.main(args=list(head), prog_name=PROGRAM, standalone_mode=False, obj=head)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except click.exceptions.Exit as leaving:
        return leaving.exit_code
    except SystemExit:  # click's own way out where a pipe was closed early, and its only one
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except click.exceptions.NoArgsIsHelpError as problem:
        click.echo(problem.format_message(), err=True)
        return 2
    except click.ClickException as problem:
        return _tell(_usage(problem, head), as_json=as_json, debug=debug)
    except HvtxError as problem:
        if isinstance(problem, UsageError) and problem.hint is None:
            problem.hint = _help_hint(_command_path(head))
        if isinstance(problem, OutputLost):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or Python would fail on it once more
        return _tell(problem, as_json=as_json, debug=debug)
    except (KeyboardInterrupt, click.Abort):
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except (OSError, MemoryError) as problem:
        told = _unexpected(problem)
        for note in getattr(problem, "__notes__", ()):
            told.hint = f"{told.hint}; {note}"
        return _tell(told, as_json=as_json, debug=debug)
    except Exception as problem:  # noqa: BLE001 - a mistake of ours is one line too, unless asked
        words = f"unexpected {type(problem).__name__}: {problem}"
        bug = HvtxError(words, hint="this is a bug in hvtx; --debug shows where", code="bug")
        return _tell(bug, as_json=as_json, debug=debug)


def _open_what_is_closed() -> None:
    """Lead to /dev/null what the caller closed: the next file to be opened would be in its place.

    The lowest number is given first, so each gets its own.
    """
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 - for the process's life


class _Stream:
    """A standard stream with another ``write`` and ``flush``."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class _Answers(_Stream):
    """Standard output: a full disk of the caller's is told from one of hvtx's own."""

    @property
    def buffer(self) -> _Answers:
        return _Answers(self.stream.buffer)

    def write(self, text: str | bytes) -> int:
        with _lost():
            self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        with _lost():
            self.stream.flush()


@contextmanager
def _lost() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as problem:
        raise OutputLost(problem) from problem


class _Messages(_Stream):
    """Standard error: a message that cannot be told stops no deed and changes no exit code."""

    def write(self, text: str) -> int:
        with suppress(OSError):
            self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self.stream.flush()


def _never_fail_to_write() -> None:
    """What a terminal's encoding lacks is shown as ``?``: no deed may end in a half-told error."""
    for stream in (sys.stdout, sys.stderr):
        inner = getattr(stream, "stream", stream)
        if isinstance(inner, io.TextIOWrapper):
            inner.reconfigure(errors="replace")


def _refuse_bytes(arguments: Sequence[str]) -> None:
    try:
        "".join(arguments).encode()
    except UnicodeEncodeError as problem:
        raise UsageError(
            "an argument holds bytes that are no text in UTF-8",
            hint="give names and paths that can be written down",
        ) from problem


def _usage(problem: click.ClickException, arguments: Sequence[str]) -> UsageError:
    """What click found wrong with a command line, as ours."""
    hint = getattr(problem, "hint", None)
    if hint is not None:
        return UsageError(_words(problem), hint=hint)
    context = getattr(problem, "ctx", None)
    path = _command_path(arguments) if context is None else context.command_path
    if isinstance(problem, click.NoSuchOption):
        return _no_option(problem, path, arguments)
    return UsageError(_words(problem), hint=_help_hint(path))


def _no_option(problem: click.NoSuchOption, path: str, arguments: Sequence[str]) -> UsageError:
    """An option that is unknown where it stands; its hint says where it belongs, or what else."""
    name = problem.option_name
    hint = _help_hint(path)
    own = {option for param in root.params for option in param.opts}
    found = _command_with(name, arguments) if path == PROGRAM else None
    if found is not None:
        hint = f"{name} stands after the command: {found} {name}"
    elif path != PROGRAM and name in own:
        below = path.removeprefix(PROGRAM).strip()
        value = next((f" {p.metavar}" for p in root.params if name in p.opts and p.metavar), "")
        hint = f"{name} stands before the command: {PROGRAM} {name}{value} {below}"
    elif problem.ctx is not None:
        from hvtx.model.nearest import nearest

        # without their dashes, which would make all of them alike
        known = {o.lstrip("-"): o for p in problem.ctx.command.params for o in p.opts}
        likely = nearest(name.lstrip("-"), known)
        hint = f"did you mean {known[likely]}? {hint}" if likely else hint
    return UsageError(f"no such option {name!r}", hint=hint)


def _command_with(option: str, arguments: Sequence[str]) -> str | None:
    """The command that a command line goes on to name after ``option``, if it has that option."""
    words = [word for word in arguments if not word.startswith("-")]
    for number, word in enumerate(words):
        if word in COMMANDS:
            path = _command_path(words[number:])
            command = _command_at(path)
            if any(option in param.opts for param in command.params):
                return path
    return None


def _command_at(path: str) -> click.Command:
    """The command of a path such as ``hvtx vm create``."""
    command: click.Command = root
    for word in path.split()[1:]:
        assert isinstance(command, click.Group)
        found = command.get_command(click.Context(command), word)
        assert found is not None
        command = found
    return command


# What people type who know other programs, and what is meant by it below `hvtx`.
_ELSEWHERE = {
    **dict.fromkeys(("ls", "list", "ps", "status"), "vm ls"),
    **dict.fromkeys(("rm", "delete", "remove", "destroy", "undefine"), "vm rm"),
    **dict.fromkeys(("set", "edit", "update"), "vm set"),
    **dict.fromkeys(("restart", "reboot"), "vm restart"),
    **dict.fromkeys(("show", "inspect"), "vm show"),
    "net": "network",
    "history": "log",
    "version": "--version",
}


def _no_command(name: str, group: click.Group, path: str) -> UsageError:
    """A command that is unknown; its hint names the one that was probably meant."""
    from hvtx.model.nearest import nearest

    own = group.list_commands(click.Context(group))
    below = {word: f"vm {word}" for word in _command_at(f"{PROGRAM} vm").commands}  # type: ignore[attr-defined]
    elsewhere = _ELSEWHERE.get(name, "").removeprefix("vm ")
    likely = nearest(name, own)
    if name == "help":
        likely = "--help"
    elif group is root:
        near = nearest(name, [*own, *below])  # `statr` is more like `start` than like `store`
        likely = _ELSEWHERE.get(name) or (near if near in own else below.get(near or ""))
    elif elsewhere in own:
        likely = elsewhere
    if likely is None:
        return UsageError(f"no such command {name!r}", hint=_help_hint(path))
    return UsageError(f"no such command {name!r}", hint=f"did you mean `{path} {likely}`?")


def _help_hint(path: str) -> str:
    return f"`{path} --help` shows what it takes"


def _command_path(arguments: Sequence[str]) -> str:
    """``hvtx vm create`` of a command line, as far as it names commands.

    Found anew where an error needs it: by then click's own context is gone.
    """
    command: click.Command = root
    path, rest = PROGRAM, list(arguments)
    with suppress(click.ClickException):
        while isinstance(command, click.Group):
            context = click.Context(command, info_name=path)
            rest = command.make_parser(context).parse_args(rest)[1]
            found = command.get_command(context, rest[0]) if rest else None
            if found is None:
                break
            command, path, rest = found, f"{path} {rest[0]}", rest[1:]
    return path


def _words(problem: click.ClickException) -> str:
    words = problem.format_message().strip().rstrip(".")
    return words[:1].lower() + words[1:] if words else "usage"


_EXHAUSTED = frozenset(
    (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EAGAIN, errno.ENOLCK)
)


def _unexpected(problem: OSError | MemoryError) -> HvtxError:
    if isinstance(problem, MemoryError):
        hint = "free some, or raise the limit; then `hvtx recover` resolves what was under way"
        return HvtxError("the memory that hvtx may use is exhausted", hint=hint, code="memory")
    if isinstance(problem, PermissionError):
        return NotPermitted(
            f"not permitted: {problem}", hint="run hvtx as root, for instance with sudo"
        )
    if problem.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        return StoreError(
            f"a disk of hvtx cannot be written: {problem}",
            hint="free some space or remount it read-write; or choose other directories",
        )
    if problem.errno == errno.EIO:
        return StoreError(
            f"a disk of hvtx cannot be read: {problem}", hint="see what the kernel's log says of it"
        )
    if problem.errno in _EXHAUSTED:
        return HostRefused(
            f"the host has no room for it: {problem}",
            hint="look at the limits on open files, processes and memory, and try again",
        )
    return HvtxError(f"the system refused: {problem}", hint="`hvtx doctor` checks this host")


def _tell(problem: HvtxError, *, as_json: bool, debug: bool) -> int:
    if debug:
        import traceback

        click.echo(_plain(traceback.format_exc()), err=True)
    message = " ".join(problem.message.split())
    hint = " ".join((problem.hint or problem.mend).split())
    if as_json:
        from hvtx.cli.render import to_json

        error = {"code": problem.code, "message": message, "hint": hint}
        click.echo(to_json({"error": error}), err=True)
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
    from hvtx.engine.telling import under_journal

    return under_journal()


def _plain(text: str) -> str:
    """Text without anything that a terminal would obey."""
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in text)
