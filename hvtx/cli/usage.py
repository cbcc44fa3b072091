"""Usage errors: what is wrong, and the likely correction. Imported where it is needed."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from contextlib import suppress
from itertools import takewhile

import click

from hvtx.api.settings import settings
from hvtx.cli import elsewhere
from hvtx.cli.names import PROGRAM
from hvtx.cli.root import COMMANDS, Group, NoCommand, root
from hvtx.errors import HvtxError, UsageError
from hvtx.model.nearest import nearest


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
        return _no_command(problem.name, problem.ctx.command, path, arguments)
    if isinstance(problem, click.NoSuchOption):
        return _no_option(problem, path, arguments)
    return _other(_words(problem), path)


def _other(words: str, path: str) -> UsageError:
    """What click found wrong beside words that are unknown: most often a word too many."""
    if words.endswith("does not take a value"):
        return UsageError(words, hint=_flag_hint(words.split("'")[1], path))
    if words == "missing option '--pid'":  # who looks for a console, as `attach` is elsewhere
        hint = "give the pid of an external VM's process; a console: hvtx vm console NAME"
        return UsageError(words, hint=hint)
    before, _, extra = words.rstrip(")").partition("(")
    if not before.startswith("got unexpected extra argument"):
        return UsageError(words, hint=help_hint(path))
    first = extra.split(" ")[0]
    is_prefix = "/" in first and not first.startswith(("/", "."))
    if is_prefix and _has(path, "--subnet"):
        return UsageError(words, hint=f"did you mean --subnet {first}?")
    word, _, value = first.partition("=")
    if _has(path, f"--{word}"):
        return UsageError(words, hint=f"did you mean --{word}{value and ' '}{value}?")
    advice = elsewhere.extra_advice(path.removeprefix(PROGRAM).strip(), first)
    return UsageError(words, hint=advice or help_hint(path))


def _flag_hint(option: str, path: str) -> str:
    """How an option that is yes by itself is written, and its contrary where there is one."""
    contrary = f"--no-{option.removeprefix('--')}"
    return f"write it as {option}" + (f", or {contrary}" if _has(path, contrary) else "")


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
        hint = _option_hint(name, problem.ctx, path, arguments) or hint
    return UsageError(f"no such option {name!r}", hint=hint)


def _option_hint(
    name: str, context: click.Context, path: str, arguments: Sequence[str]
) -> str | None:
    """What is said of an option that a command has not; None: nothing better than its help."""
    below = path.removeprefix(PROGRAM).strip()
    rule = elsewhere.rule_of(below, arguments)
    if rule is not None:
        return f"a rule stands after two dashes: {path} -- {rule}"
    own = _options_of(context.command)
    likely = next((other for other in elsewhere.OPTIONS.get(name, ()) if other in own), None)
    if likely is None:
        words = elsewhere.words_after(below.split()[-1], arguments) if below else []
        named = name == "--name" and words[:1] not in ([], ["…"])  # it has one already
        made = (
            _named_already(words[0], below)
            if named
            else (
                elsewhere.option_advice(name, below, _state_directory(context))
                or _given_once(name, path)
            )
        )
        if made is not None:
            return made
        if (positive := f"--{name.removeprefix('--no-')}") in own and positive != name:
            return f"leave it out: without {positive} there is none"
        likely = elsewhere.alike(name, own)
    return None if likely is None else f"did you mean {likely}? {help_hint(path)}"


def _named_already(name: str, below: str) -> str | None:
    """What is said of --name beside a NAME."""
    if below.endswith(" set"):
        return elsewhere.no_command("rename", "")
    return f"{name!r} is the name by now: leave --name out"


def _state_directory(context: click.Context) -> str:
    """The one in use; its option's name where the settings are wrong, too."""
    with suppress(HvtxError):
        return shlex.quote(settings(context.find_root().params).state_directory)
    return "STATE_DIR"


def _options_of(command: click.Command) -> set[str]:
    params = [param for param in command.params if isinstance(param, click.Option)]
    return {option for param in params for option in (*param.opts, *param.secondary_opts)}


def _given_once(name: str, path: str) -> str | None:
    """Of an option of `create` that `set` has not: that it cannot be changed."""
    group, _, verb = path.rpartition(" ")
    if verb != "set" or not _has(f"{group} create", name):
        return None
    what = "VM" if group.endswith(" vm") else group.rpartition(" ")[2]
    return f"{name} is given once, when a {what} is made: `{group} create --help` describes it"


def _has(path: str, option: str) -> bool:
    return any(option in (*param.opts, *param.secondary_opts) for param in _command_at(path).params)


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


def _no_command(name: str, group: click.Group, path: str, arguments: Sequence[str]) -> UsageError:
    """A command that is unknown; its hint names the one that was probably meant."""
    rest = elsewhere.words_behind([*path.split()[1:], name], arguments)
    hint = _meant_by(name, group, path, elsewhere.words_before_options(rest), _options_in(rest))
    return UsageError(f"no such command {name!r}", hint=hint)


def _meant_by(
    name: str, group: click.Group, path: str, after: Sequence[str], options: Sequence[str]
) -> str:
    """The hint of a word that is no command of ``group``, before words and options."""
    if group is root and name.casefold() == PROGRAM:  # said twice
        return _without_program(after, options)
    meant = _reordered(name, group, after, options)
    if name == "help":
        below = command_path([*path.split()[1:], *after])
        meant = f"{below.removeprefix(PROGRAM).strip()} --help".strip()
    elif meant is None and (advice := elsewhere.no_command(name, _called(group))) is not None:
        return advice
    elif meant is None:
        meant = _likely_command(name, group, path)
    if meant is None:
        return f"`{path} --help` shows its commands"
    return f"did you mean `{PROGRAM} {meant}`?"


def _without_program(after: Sequence[str], options: Sequence[str]) -> str:
    """The hint of ``hvtx hvtx vm ls``."""
    if not after or after[0] == "…":
        return help_hint(PROGRAM)
    if after[0] in COMMANDS:
        return f"did you mean `{PROGRAM} {' '.join(after)}`?"
    return _meant_by(after[0], root, PROGRAM, after[1:], options)


def _options_in(words: Sequence[str]) -> list[str]:
    """The long options among ``words``, without values; what follows ``--`` is none."""
    before = takewhile(lambda word: word != "--", words)
    return [word.partition("=")[0] for word in before if word.startswith("--")]


def _called(group: click.Group) -> str:
    return "" if group is root else str(group.name)


def _reordered(
    name: str, group: click.Group, after: Sequence[str], options: Sequence[str]
) -> str | None:
    """What a command line means whose words are there, in another order or in one argument."""
    at_root = group is root
    if at_root and " " in name:
        path = command_path(name.split())
        return path.removeprefix(PROGRAM).strip() or None
    if at_root:
        found = elsewhere.reordered([name, *after], _commands_of)
        if found is not None:
            return _taken(found.split())
    if not after or after[0] == "…":
        return None
    if (typed := _group_typed(name, after)) is not None:
        return _taken([typed, *after])
    below = _group_with(after[0], options) if at_root else str(group.name)
    own = _commands_of(below)
    low = name.casefold()
    known = low in {*elsewhere.GROUPS, *COMMANDS} or elsewhere.verb_meant(low, own) is not None
    if after[0] not in own or known or (at_root and list(after[1:]) not in ([], ["…"])):
        return None  # of several words, nobody knows which is a name
    return _taken([below, after[0], name, *after[1:]])


def _group_typed(name: str, after: Sequence[str]) -> str | None:
    """The group that ``name`` is, in capitals or with a slip, where ``after`` is its command.

    With a slip, only where a name follows, or none is taken: `vm1 start` is of a VM, `netwrok rm
    lab` of a network.
    """
    groups = {one: _commands_of(one) for one in COMMANDS if _is_group(one)}
    if after[0] in groups.get(name.casefold(), ()):
        return name.casefold()
    likely = None if name.casefold() in elsewhere.GROUPS else nearest(name, groups)
    if likely is None or after[0] not in groups[likely]:
        return None
    followed = after[1:2] not in ([], ["…"]) or not _takes_words(f"{likely} {after[0]}")
    return likely if followed else None


def _group_with(verb: str, options: Sequence[str]) -> str:
    """``vm``, or ``network`` where only its command ``verb`` has all the options."""

    def fits(group: str) -> bool:
        path = f"{PROGRAM} {group} {verb}"
        return verb in _commands_of(group) and all(_has(path, option) for option in options)

    return "network" if fits("network") and not fits("vm") else "vm"


def _taken(words: Sequence[str]) -> str:
    """A command line without the words that its command takes none of; `vm ls web` shows web."""
    group, verb, *rest = words
    named = [word for word in rest if word != "…"]
    if not named or _takes_words(f"{group} {verb}"):
        return " ".join(words)
    if verb == "ls" and len(named) == 1 and "show" in _commands_of(group):
        return f"{group} show {named[0]}"
    return f"{group} {verb}"


def _takes_words(below: str) -> bool:
    """Whether a command such as ``vm rm`` takes a name, or ``store backup`` a file."""
    params = _command_at(f"{PROGRAM} {below}").params
    return any(isinstance(param, click.Argument) and param.required for param in params)


def _is_group(name: str) -> bool:
    return isinstance(_command_at(f"{PROGRAM} {name}"), click.Group)


def _likely_command(name: str, group: click.Group, path: str) -> str | None:
    """Which command was probably meant, by what it is called elsewhere, or by its letters."""
    own = _listed(group)
    if group is not root:
        likely = elsewhere.verb_meant(name, own)
        if likely is None and not elsewhere.is_elsewhere(name):  # `network restart` is no `create`
            likely = nearest(name, own)
        return None if likely is None else f"{path.removeprefix(PROGRAM).strip()} {likely}"
    vms = _commands_of("vm")
    meant = elsewhere.root_meant(name) or elsewhere.GROUPS.get(name)
    if meant is None and (verb := elsewhere.verb_meant(name, vms)) is not None:
        meant = f"vm {verb}"
    if meant is not None:
        return meant
    near = nearest(name, [*own, *vms])  # `statr` is more like `start` than like `store`
    return near if near is None or near in own else f"vm {near}"


def _group_at(name: str) -> Group:
    found = _command_at(f"{PROGRAM} {name}")
    assert isinstance(found, Group)
    return found


def _commands_of(group: str) -> list[str]:
    return _listed(_group_at(group))


def _listed(group: click.Group) -> list[str]:
    return group.list_commands(click.Context(group))


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
