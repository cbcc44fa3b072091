"""Usage errors: what is wrong, and the likely correction. Imported where it is needed."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import click

from hvtx.cli.names import PROGRAM
from hvtx.cli.root import COMMANDS, NoCommand, root
from hvtx.errors import UsageError


def usage_error(problem: click.ClickException, arguments: Sequence[str]) -> UsageError:
    """What click found wrong with a command line, as ours."""
    hint = getattr(problem, "hint", None)
    if hint is not None:
        return UsageError(_words(problem), hint=hint)
    context = getattr(problem, "ctx", None)
    path = command_path(arguments) if context is None else context.command_path
    if isinstance(problem, NoCommand):
        assert isinstance(problem.ctx, click.Context)
        assert isinstance(problem.ctx.command, click.Group)
        return _no_command(problem.name, problem.ctx.command, path)
    if isinstance(problem, click.NoSuchOption):
        return _no_option(problem, path, arguments)
    words = _words(problem)
    before, _, extra = words.rstrip(")").partition("unexpected extra argument (")
    is_prefix = "/" in extra and not extra.startswith(("/", "."))
    if before == "got " and is_prefix and _has(path, "--subnet"):
        return UsageError(words, hint=f"did you mean --subnet {extra}?")
    return UsageError(words, hint=help_hint(path))


def _no_option(problem: click.NoSuchOption, path: str, arguments: Sequence[str]) -> UsageError:
    """An option that is unknown where it stands; its hint says where it belongs, or what else."""
    name = problem.option_name
    hint = help_hint(path)
    own = {option for param in root.params for option in param.opts}
    group = isinstance(_command_at(path), click.Group)
    found = _command_with(name, arguments) if group else None
    if found is not None:
        hint = f"{name} belongs after the command: {found} {name}"
    elif path != PROGRAM and name in own:
        below = path.removeprefix(PROGRAM).strip()
        value = next((f" {p.metavar}" for p in root.params if name in p.opts and p.metavar), "")
        hint = f"{name} belongs before the command: {PROGRAM} {name}{value} {below}"
    elif problem.ctx is not None:
        likely = _likely_option(name, problem.ctx.command)
        if likely is not None:
            hint = f"did you mean {likely}? {hint}"
        elif (made := _given_once(name, path)) is not None:
            hint = made
    return UsageError(f"no such option {name!r}", hint=hint)


# What options are called elsewhere, and what is meant by it: the first that the command has.
_OPTIONS_ELSEWHERE = {
    **dict.fromkeys(("--port", "--ports", "--expose"), ("--publish",)),
    **dict.fromkeys(("--ram", "--mem"), ("--memory",)),
    **dict.fromkeys(("--image", "--drive", "--hda", "--volume"), ("--disk",)),
    **dict.fromkeys(("--vcpus", "--smp"), ("--cpus",)),
    **dict.fromkeys(("--cidr", "--range", "--ip-range"), ("--subnet",)),
    **dict.fromkeys(("--rate", "--bandwidth"), ("--limit",)),
    **dict.fromkeys(("--format", "--output", "-o"), ("--json",)),
    **dict.fromkeys(("--dry-run", "--check", "-n"), ("--plan",)),
    **dict.fromkeys(("--time", "-t"), ("--timeout",)),
    **dict.fromkeys(("--tail", "--lines"), ("-n",)),
}


def _likely_option(name: str, command: click.Command) -> str | None:
    """Which of a command's options was probably meant."""
    from hvtx.model.nearest import nearest

    own = {o for param in command.params if isinstance(param, click.Option) for o in param.opts}
    for other in _OPTIONS_ELSEWHERE.get(name, ()):
        if other in own:
            return other
    # without their dashes, which would make all of them alike; one letter is like any other
    long = name.startswith("--")
    known = {o.lstrip("-"): o for o in own if o.startswith("--") or not long}
    likely = nearest(name.lstrip("-"), known)
    return known[likely] if likely else None


def _given_once(name: str, path: str) -> str | None:
    """Of an option of `create` that `set` has not: that it cannot be changed."""
    group, _, verb = path.rpartition(" ")
    if verb != "set" or not _has(f"{group} create", name):
        return None
    what = "VM" if group.endswith(" vm") else group.rpartition(" ")[2]
    return f"{name} is given once, when a {what} is made: `{group} create --help` describes it"


def _has(path: str, option: str) -> bool:
    return any(option in param.opts for param in _command_at(path).params)


def _command_with(option: str, arguments: Sequence[str]) -> str | None:
    """The command that a command line goes on to name after ``option``, if it has that option."""
    words = [word for word in arguments if not word.startswith("-")]
    for number, word in enumerate(words):
        if word in COMMANDS:
            path = command_path(words[number:])
            if _has(path, option):
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
    vms = _command_at(f"{PROGRAM} vm")
    assert isinstance(vms, click.Group)
    below = {word: f"vm {word}" for word in vms.list_commands(click.Context(vms))}
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
        return UsageError(f"no such command {name!r}", hint=help_hint(path))
    return UsageError(f"no such command {name!r}", hint=f"did you mean `{path} {likely}`?")


def help_hint(path: str) -> str:
    """Where the help of a command such as ``hvtx vm create`` is, or of a group."""
    group = path != PROGRAM and isinstance(_command_at(path), click.Group)
    return f"`{path} --help` shows its {'commands' if group else 'options'}"


def command_path(arguments: Sequence[str]) -> str:
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
