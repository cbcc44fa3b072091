"""`[networks.NAME]` and `[vms.NAME]` of a TOML file: options of `create`, as a table has them.

There is no second list of options: which keys there are, and what their values may be, is asked of
the commands themselves.
"""

from __future__ import annotations

import os
import re
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from functools import cache

import click

from hvtx.api import sets
from hvtx.api.sets import SET_MOST, Asked, Request, is_no_file, read_set
from hvtx.cli import network
from hvtx.cli.common import File, Number
from hvtx.cli.names import PROGRAM
from hvtx.cli.root import root
from hvtx.cli.usage import usage_error
from hvtx.cli.vm import run, vm
from hvtx.errors import HostRefused, HvtxError, NotFound, UsageError, placed
from hvtx.model.nearest import nearest
from hvtx.model.typed import Any, NamedTuple

STDIN = "-"
START = "start"  # the one key that is no option: whether `vm apply` starts the VM
_ASIDE = ("json_", "name")
_MOST = 1 << 63  # of a whole number in TOML
_EXAMPLE = 'for instance [vms.web] with memory = 512 and publish = ["8080:80"] below it'


class Source(NamedTuple):
    """What one file says; relative paths in it count from its directory."""

    file: str
    directory: str
    tables: Mapping[str, Any]


class Key(NamedTuple):
    """A key of a table: the option that it stands for; ``off``: its opposite, such as no-nat."""

    param: click.Parameter
    off: bool = False


class Kind(NamedTuple):
    """A kind of table: the command whose options its keys are, and what checks them together."""

    table: str
    what: str
    command: click.Command
    check: Callable[[str, dict[str, Any]], Any]


def _kinds() -> tuple[Kind, Kind]:
    return (
        Kind("networks", "network", network.create, sets.asked_network),
        Kind("vms", "VM", run, sets.asked_vm),
    )


# -- files -----------------------------------------------------------------------------------------


def read(files: Sequence[str]) -> list[Source]:
    """The files that were named, each once. Raises NotFound, NotPermitted, UsageError, OSError."""
    if len(set(files)) != len(files):
        twice = next(name for name in files if files.count(name) > 1)
        raise UsageError(f"-f {twice} is given twice", hint="name each file once")
    return [_read(name) for name in files]


def _read(name: str) -> Source:
    if name == STDIN:
        return Source("standard input", os.getcwd(), parsed("standard input", _stdin()))
    try:
        content = read_set(name)
    except FileNotFoundError as problem:
        raise NotFound(
            f"there is no file {name}", hint=f"write the set into it: {_EXAMPLE}"
        ) from problem
    except OSError as problem:
        if not is_no_file(problem):
            raise
        raise UsageError(
            f"{name} cannot be read: {problem.strerror}",
            hint="give a file, or - for standard input",
        ) from problem
    return Source(name, os.path.dirname(os.path.abspath(name)), parsed(name, content))


def _stdin() -> bytes:
    try:
        content = sys.stdin.buffer.read(SET_MOST + 1)
    except OSError as problem:
        raise HostRefused(f"standard input cannot be read: {problem.strerror}") from problem
    if len(content) > SET_MOST:
        raise UsageError(f"standard input has more than {SET_MOST} bytes", hint="use several runs")
    return content


def parsed(name: str, content: bytes) -> dict[str, Any]:
    """The tables of a file; raises UsageError, which names line and column where TOML is broken."""
    try:
        return tomllib.loads(content.decode())
    except UnicodeDecodeError as problem:
        line = content[: problem.start].count(b"\n") + 1
        raise UsageError(
            f"{name} is not text in UTF-8 (at line {line})", hint="a set is written in TOML"
        ) from problem
    except (ValueError, RecursionError) as problem:
        raise UsageError(f"{name} is not TOML: {problem}", hint=_EXAMPLE) from problem


# -- tables ----------------------------------------------------------------------------------------


def request(sources: Sequence[Source]) -> Request:
    """The set that all files describe together.

    Raises UsageError naming file, table and key of what could never be; NotFound, NotPermitted for
    files that are named in it.
    """
    kinds = _kinds()
    found: dict[str, dict[str, Asked]] = {kind.table: {} for kind in kinds}
    for source in sources:
        for word in source.tables:
            if word not in found:
                raise _unknown(f"{source.file}: [{_shown(word)}]", word, found, "table")
        for kind in kinds:
            tables = source.tables.get(kind.table, {})
            if not isinstance(tables, dict):
                raise UsageError(
                    f"{source.file}: {kind.table} is not a table", hint=f"write [{kind.table}.NAME]"
                )
            for name, table in tables.items():
                where = f"{source.file}: [{kind.table}.{_shown(name)}]"
                if name in found[kind.table]:
                    other = found[kind.table][name].where
                    raise UsageError(f"{where} is there twice: {other}", hint="keep one of them")
                found[kind.table][name] = _asked(kind, name, table, source.directory, where)
    if not any(found.values()):
        files = ", ".join(source.file for source in sources)
        raise UsageError(f"{files}: no VM and no network is described", hint=_EXAMPLE)
    return Request(**found)


def _asked(kind: Kind, name: str, table: Any, directory: str, where: str) -> Asked:
    if not isinstance(table, dict):
        raise UsageError(f"{where} is not a table", hint=f"write [{kind.table}.NAME]")
    start = table.get(START, True) if kind.table == "vms" else True
    if not isinstance(start, bool):
        raise UsageError(f"{where}: {START}: {_kind_of(start)} is not true or false", hint=_FLAG)
    given = {key: v for key, v in table.items() if key != START or kind.table != "vms"}
    words = {key: _words(kind, key, value, directory, where) for key, value in given.items()}
    _refuse_twice(kind, given, where)
    try:
        made = _made(kind, name, words, directory)
    except HvtxError as problem:
        blamed = _blamed(kind, name, words, directory, problem)
        with placed(f"{where}: {blamed}" if blamed else where):
            raise
    return Asked(made, where, start)


def _made(kind: Kind, name: str, words: Mapping[str, Sequence[str]], directory: str) -> Any:
    """The request that these words of a command line make. Raises UsageError and its like."""
    options = [word for key, some in words.items() if key != "command" for word in some]
    command = words.get("command", ())
    line = [*options, "--", name, *command]
    try:
        with kind.command.make_context("create", line, _above(kind)) as context:
            params = {key: v for key, v in context.params.items() if key not in _ASIDE}
    except click.ClickException as problem:
        raise usage_error(problem, ()) from problem
    made = kind.check(name, params)
    return made._replace(directory=directory) if kind.table == "vms" else made


def _above(kind: Kind) -> click.Context:
    """The context of the command's group: whoever is refused is told of `hvtx vm create`."""
    group, name = (vm, "vm") if kind.table == "vms" else (network.network, "network")
    return click.Context(group, click.Context(root, info_name=PROGRAM), info_name=name)


def _blamed(
    kind: Kind,
    name: str,
    words: Mapping[str, Sequence[str]],
    directory: str,
    problem: HvtxError,
) -> str | None:
    """The key without which a table would not be refused so; None: it is not one of them.

    Of several, one without which it is right, and rather one that the message does not name: it
    says what the others are not for. If it is right without none, the one that is named first.
    """
    others, right = [], []
    for key in words:
        rest = {other: some for other, some in words.items() if other != key}
        try:
            _made(kind, name, rest, directory)
        except HvtxError as other:
            if other.message != problem.message:
                others.append(key)
        else:
            right.append(key)
    if right:
        return next((key for key in right if f"--{_spelt(key)}" not in problem.message), right[0])
    named = (key for key in others if problem.message.startswith(f"--{_spelt(key)} "))
    return next(named, others[0] if others else None)


def _spelt(key: str) -> str:
    """A key as the option is spelt that it stands for."""
    return key.replace("_", "-")


# -- keys ------------------------------------------------------------------------------------------

_FLAG = "write true or false, without quotes"


@cache
def _keys(command: click.Command) -> dict[str, Key]:
    """Every key that a table may have: the long options of the command, and its argument."""
    found = {}
    for param in command.params:
        if param.name in _ASIDE:
            continue
        if isinstance(param, click.Argument):
            found[str(param.name)] = Key(param)
        for words, off in ((param.opts, False), (param.secondary_opts, True)):
            found |= {word[2:]: Key(param, off) for word in words if word.startswith("--")}
    return found


def keys(table: str) -> list[str]:
    """The keys of a kind of table, for whoever documents them."""
    kind = next(kind for kind in _kinds() if kind.table == table)
    return [*_keys(kind.command), *((START,) if table == "vms" else ())]


def _words(kind: Kind, key: str, value: Any, directory: str, where: str) -> list[str]:
    """What a key and its value are on a command line. Raises UsageError."""
    known = _keys(kind.command)
    spelt = _spelt(key)
    found = known.get(spelt)
    if found is None:
        extra = (START,) if kind.table == "vms" else ()
        raise _unknown(f"{where}: {_shown(key)}", spelt, [*known, *extra], "key")
    with placed(f"{where}: {_shown(key)}"):
        if isinstance(found.param, click.Argument):
            return _texts(value, found.param, directory)
        assert isinstance(found.param, click.Option)
        if found.param.is_flag:
            return _flag(value, found.param, off=found.off)
        if found.param.multiple:
            some = _texts([value] if isinstance(value, str) else value, found.param, directory)
            return [f"--{spelt}={text}" for text in some]
        return [f"--{spelt}={_text(value, found.param, directory)}"]


def _flag(value: Any, option: click.Option, *, off: bool) -> list[str]:
    if not isinstance(value, bool):
        raise UsageError(f"{_kind_of(value)} is not true or false", hint=_FLAG)
    words = option.opts if value is not off else option.secondary_opts
    return [word for word in words if word.startswith("--")][:1]


def _texts(value: Any, param: click.Parameter, directory: str) -> list[str]:
    if not isinstance(value, list):
        raise UsageError(f"{_kind_of(value)} is not a list of texts", hint='["one", "two"]')
    return [_text(each, param, directory) for each in value]


def _text(value: Any, param: click.Parameter, directory: str) -> str:
    """A value as a word of a command line; a relative path from the directory of the file."""
    if isinstance(param.type, Number):
        if isinstance(value, bool) or not isinstance(value, int):
            raise UsageError(f"{_kind_of(value)} is not a whole number", hint="without quotes: 512")
        if abs(value) >= _MOST:
            raise UsageError("the number is too great", hint="TOML's have 64 bits")
        return str(value)
    if not isinstance(value, str):
        raise UsageError(f"{_kind_of(value)} is not a text", hint='write it in quotes: "…"')
    if "\0" in value or not _is_utf8(value):
        raise UsageError(
            "the text holds a NUL character, or what is no character",
            hint="no option can hold one",
        )
    if isinstance(param.type, File) and value:
        return os.path.join(directory, value)
    return value


def _is_utf8(text: str) -> bool:
    """Whether a text has no lone surrogates, which JSON may spell."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _refuse_twice(kind: Kind, table: Mapping[str, Any], where: str) -> None:
    """Refuse two keys of one option: one spelt with a dash and with an underscore, nat and no-nat.

    The last would hold on a command line; a table has no order.
    """
    known = _keys(kind.command)
    seen: dict[str, str] = {}
    for key in table:
        option = str(known[_spelt(key)].param.name)
        if option in seen:
            raise UsageError(
                f"{where}: {seen[option]} and {key} cannot be combined", hint="keep one of them"
            )
        seen[option] = key


def _unknown(where: str, word: str, known: Any, what: str) -> UsageError:
    likely = nearest(word, known)
    ask = f"did you mean {likely}? " if likely else ""
    return UsageError(
        f"{where} is not a {what} of a set", hint=f"{ask}known: {', '.join(sorted(known))}"
    )


_TYPES = {
    type(None): "nothing", bool: "a truth value", int: "a number", float: "a number",
    str: "a text", list: "a list", dict: "a table",
}  # fmt: skip


def _kind_of(value: Any) -> str:
    return _TYPES.get(type(value), "a date or a time")


def _shown(word: str) -> str:
    """A name or key as a line can hold it."""
    if re.fullmatch("[A-Za-z0-9_-]{1,80}", word):
        return word
    return repr(word if len(word) <= 80 else f"{word[:79]}…")
