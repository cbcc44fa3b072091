"""The settings: a flag beats the environment, that the file, that the default."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from hvtx.errors import HostRefused, NotFound, NotPermitted, UsageError
from hvtx.model.setting import EVERY, NUMBERS
from hvtx.model.shell import word
from hvtx.model.typed import Any

DEFAULT_CONFIG = "/etc/hvtx/config.toml"
SECONDS = r"([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?"  # `float` takes more: nan, 1_0, blanks
DAY = 86400
FIREWALLS = ("auto", "nftables", "iptables")
EGRESS = ("open", "internet", "none")
DHCP = ("auto", "on", "off")


def settings(options: Mapping[str, Any]) -> Any:
    """Flag beats environment beats file beats default; raises UsageError, NotFound."""
    path, explicit = _path(options)
    known = _checked_file(_from_file(path, explicit=explicit), path)

    def value(name: str, default: str) -> str:
        return _given(name, options) or str(known.get(name, default))  # the file is checked already

    return _made(
        group=value("group", "") or None,
        tap_user=value("tap_user", "") or None,
        vm_user=value("vm_user", "auto"),
        dhcp=value("dhcp", "auto"),
        history_lines=int(value("history_lines", "100000")),
        state_directory=os.path.abspath(value("state_dir", "/var/lib/hvtx")),
        run_directory=os.path.abspath(value("run_dir", "/run/hvtx")),
        firewall=value("firewall", "auto"),
        egress=value("egress", "") or None,
        lock_timeout=float(value("lock_timeout", "10")),
        cluster=known.get("cluster"),
    )


def settings_to_end(options: Mapping[str, Any], tell: Callable[[str], None]) -> Any:
    """The settings of what ends something, which needs the store and nothing of what is made.

    What others need may be wrong: it is passed over, and told. So is a file that cannot be read,
    where both directories are known without it: else it might be another store, or other locks.
    Raises as :func:`settings`.
    """
    try:
        return settings(options)._replace(tap_user=None)
    except (UsageError, NotFound, NotPermitted) as problem:
        found = _of_the_store(options)
        tell(f"{problem.message}: passed over, since nothing is made")
    names = {"state_dir": "state_directory", "run_dir": "run_directory"}
    return _made(**{names.get(name, name): value for name, value in found.items()})


def _made(**decided: Any) -> Any:
    from hvtx.engine.runtime import Settings

    return Settings(**decided)


def _of_the_store(options: Mapping[str, Any]) -> dict[str, Any]:
    """Of the settings where the store is, and how it is worked with, as far as they can be."""
    path, explicit = _path(options)
    try:
        known = _from_file(path, explicit=explicit)
    except (UsageError, NotFound, NotPermitted):
        if not all(_given(name, options) for name in _PLACES):
            raise
        known = {}

    def value(name: str) -> Any:
        in_file = {key: entry for key, entry in known.items() if key == name}
        return _given(name, options) or _checked_texts(in_file, path).get(name)

    found: dict[str, Any] = {}
    for name in _PLACES:
        if place := value(name):
            found[name] = os.path.abspath(place)
    for name, kind in _WAYS.items():
        with suppress(UsageError):
            if (way := value(name)) is not None:
                found[name] = kind(way)
    return found


_PLACES = ("state_dir", "run_dir")
_WAYS: dict[str, Callable[[Any], Any]] = {"lock_timeout": float, "history_lines": int, "group": str}


def _path(options: Mapping[str, Any]) -> tuple[str, bool]:
    """Of the file, and whether somebody named it. Raises UsageError."""
    named = options.get("config")
    if named == "":
        raise UsageError("--config is empty", hint="--config /dev/null means no settings")
    named = named or os.environ.get("HVTX_CONFIG") or None
    return named or DEFAULT_CONFIG, named is not None


def _given(name: str, options: Mapping[str, Any]) -> str | None:
    """A setting by its flag, or the environment; None without either. Raises UsageError."""
    flag, variable = f"--{name.replace('_', '-')}", f"HVTX_{name.upper()}"
    if options.get(name) == "":
        raise UsageError(f"{flag} is empty", hint=f"give a value, or leave {flag} out")
    for where, found in ((flag, options.get(name)), (variable, os.environ.get(variable))):
        if found:
            return _checked(name, str(found), where)
    return None


def _fits(pattern: str, text: str) -> bool:
    import re  # 3 ms that only who sets one of these pays

    return re.fullmatch(pattern, text) is not None


_ELSEWHERE = {
    "nft": "nftables",
    **dict.fromkeys(("yes", "true", "1"), "on"),
    **dict.fromkeys(("no", "false", "0"), "off"),
}


def _meant(word: str, known: Sequence[str], otherwise: str) -> str:
    from hvtx.model.nearest import meant  # for a refusal only

    return meant(_ELSEWHERE.get(word.lower(), word), known, otherwise)


def _one_of(text: str, known: Sequence[str]) -> str:
    words = f"it is one of {', '.join(known)}"
    return words if text in known else _meant(text, known, words)


def _checked(name: str, text: str, where: str) -> str:
    """The text of a setting, if it is one, and ``where`` it was found (pure). Raises UsageError."""
    good, hint = text.isprintable(), "write it without control characters and stray bytes"
    if name == "firewall":
        good, hint = text in FIREWALLS, _one_of(text, FIREWALLS)
    elif name == "egress":
        good, hint = text in EGRESS, _one_of(text, EGRESS)
    elif name == "dhcp":
        good, hint = text in DHCP, _one_of(text, DHCP)
    elif name == "lock_timeout":
        good = _fits(SECONDS, text) and float(text) <= DAY
        hint = f"it is a number of seconds from 0 to {DAY}; 0 does not wait at all"
    elif name == "history_lines":
        good = _fits("[0-9]{3,10}", text) and 100 <= int(text) <= 10**9
        hint = f"it is a number from 100 to {10**9}: how many lines of the history are kept"
    if not good:
        raise UsageError(f"{where} cannot be {_short(text)}", hint=hint)
    return text


def _short(text: str) -> str:
    """What somebody wrote, quoted; its beginning, if it is no line for a person to read."""
    return repr(text if len(text) <= 40 else f"{text[:39]}…")


_KEYS = {*EVERY, "cluster"} - {"config"}


_OF_THE_HOST = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.EINTR})


def _from_file(path: str, *, explicit: bool) -> dict[str, Any]:
    """What stands there, unchecked. Raises UsageError, NotFound, NotPermitted, HostRefused."""
    if not explicit and not os.path.lexists(path):
        return {}
    from hvtx.engine.files import read_configuration

    try:
        text = read_configuration(path).decode()
        if not text.strip():
            return {}
        import tomllib  # 2 ms that only settings cost

        found: dict[str, Any] = tomllib.loads(text)
    except FileNotFoundError as problem:
        raise NotFound(
            f"the configuration {path} does not exist",
            hint="make it, or name another: --config FILE, or HVTX_CONFIG",
        ) from problem
    except PermissionError as problem:
        raise NotPermitted(
            f"the configuration {path} cannot be read by this user",
            hint=f"run hvtx as root, or make it readable: chmod 644 {word(path)}",
        ) from problem
    except (OSError, ValueError, RecursionError) as problem:
        if getattr(problem, "errno", None) in _OF_THE_HOST:
            raise HostRefused(
                f"the configuration {path} could not be read: {problem.args[-1]}",
                hint="nothing was done; free what is exhausted, then try again",
            ) from problem
        if isinstance(problem, OSError):
            raise UsageError(
                f"the configuration {path} cannot be read: {problem.strerror}",
                hint="name a file: --config FILE, or HVTX_CONFIG",
            ) from problem
        raise UsageError(
            f"cannot parse the configuration {path}: {problem}",
            hint='it is TOML, one `key = value` a line: firewall = "nftables"',
        ) from problem
    return found


def _checked_file(found: dict[str, Any], path: str) -> dict[str, Any]:
    """What a file has, if all of it can be. Raises UsageError."""
    unknown = sorted(set(found) - _KEYS)
    if unknown:
        raise UsageError(
            f"the configuration {path} has unknown keys: {', '.join(unknown)}",
            hint=_meant(unknown[0], sorted(_KEYS), f"known: {', '.join(sorted(_KEYS))}"),
        )
    cluster = _cluster(found.pop("cluster", None), path)
    return {**_checked_texts(found, path), **cluster}


def _cluster(table: object, path: str) -> dict[str, Any]:
    """The table ``[cluster]``, checked, where there is one."""
    if table is None:
        return {}
    from hvtx.api.cluster_settings import parse

    return {"cluster": parse(table, path)}


def _checked_texts(found: dict[str, Any], path: str) -> dict[str, Any]:
    """The settings that are texts and numbers. Raises UsageError."""
    for name, entry in found.items():
        number = isinstance(entry, int | float) and not isinstance(entry, bool)
        if not (number if name in NUMBERS else isinstance(entry, str) and entry):
            kind = "a number" if name in NUMBERS else "a text"
            raise UsageError(
                f"the configuration {path}: {name} is not {kind}",
                hint=f"{name} = 10" if name in NUMBERS else f'write it in quotes: {name} = "…"',
            )
        _checked(name, str(entry), f"{name} of {path}")
    return found
