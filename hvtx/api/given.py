"""What a program gave, checked for its kind and its bounds, as click checks a command's options."""

from __future__ import annotations

import os
from collections.abc import Mapping

from hvtx.errors import UsageError
from hvtx.model.typed import Any

_SEVERAL = frozenset(
    (
        *("networks", "ips", "macs", "publish", "unpublish", "disks", "command", "ssh_keys"),
        *("allow", "deny", "sources", "subnets"),
    )
)
_NUMBERS = frozenset(("memory", "cpus", "queues", "mtu"))
_CHOICES = frozenset(
    (
        *("autostart", "nat", "isolate", "passage", "dhcp", "no_rules", "no_uplink", "no_source"),
        "force",
    )
)
_POLICY = frozenset(("egress", "allow", "deny"))
_OF_VM = frozenset(
    (
        *("publish", "memory", "cpus", "kernel", "initrd", "append", "disks", "command"),
        *("autostart", "limit", "queues", "user_data", "ssh_keys", "user", *_POLICY),
    )
)
_OF_NETWORK = frozenset(("isolate", "uplink", "sources", "passage", "dhcp", *_POLICY))
# by keyword, as hvtx/api/options.py has them for type checkers
VM = _OF_VM | {"networks", "ips", "macs", "hypervisor"}
VM_CHANGES = _OF_VM | {"unpublish", "no_rules", "networks", "ips", "macs"}
NETWORK = _OF_NETWORK | {"bridge", "mtu", "nat", "block_size"}
NETWORK_CHANGES = _OF_NETWORK | {
    *("no_uplink", "no_source", "no_rules", "subnets", "bridge", "mtu", "nat"),
}
DAY = 86400  # seconds
PID_MOST = (1 << 31) - 1  # of a pid_t
ROW_MOST = (1 << 63) - 1  # the store's own limit for the number of an operation
LINES_MOST = 10**9  # as many as `history_lines` may keep


def options(given: Mapping[str, Any], known: frozenset[str]) -> dict[str, Any]:
    """The options that are not None, each of its kind; several as a tuple.

    Raises UsageError, TypeError for an option that is none of those ``known``.
    """
    if wrong := unknown(given, known):
        raise TypeError("; ".join(wrong))  # as of any call with such a keyword
    return {field: _of_kind(field, value) for field, value in given.items() if value is not None}


def unknown(given: Mapping[str, Any], known: frozenset[str]) -> tuple[str, str] | None:
    """What is wrong, and what to write, if an option is none of those ``known`` (pure)."""
    for field in given:
        if field not in known:
            from hvtx.model.nearest import meant  # for a refusal only

            every = sorted(known)
            hint = meant(str(field), every, f"there are {', '.join(every)}")
            return f"there is no option {field!r}", hint
    return None


def _of_kind(field: str, value: Any) -> Any:
    if field in _SEVERAL:
        if isinstance(value, str | bytes | os.PathLike):
            raise UsageError(
                f"{field} is one text, and takes several",
                hint=f"put it in a list: {field}=[{value!r}]",
            )
        if not hasattr(value, "__iter__"):
            raise UsageError(f"{field} is {value!r}, and takes several", hint="give a list")
        return tuple(_text(field, one) for one in value)
    if field in _NUMBERS:
        return whole(field, value)
    if field in _CHOICES:
        if not isinstance(value, bool):
            raise UsageError(f"{field} is {value!r}", hint=f"{field}=True or {field}=False")
        return value
    return _text(field, value)


def _text(field: str, value: Any) -> str:
    text = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(text, str):
        raise UsageError(f"{field} is {value!r}, which is no text", hint="write it as a text")
    if "\0" in text:
        raise UsageError(f"{field} holds a NUL character", hint="no name and no path can have one")
    return text


def names(given: Any) -> tuple[str, ...]:
    """The names of several VMs. Raises UsageError."""
    if isinstance(given, str | bytes | os.PathLike) or not hasattr(given, "__iter__"):
        raise UsageError(
            f"names is {given!r}, and takes several", hint=f"put it in a list: [{given!r}]"
        )
    return tuple(_text("names", one) for one in given)


def whole(field: str, value: Any, least: int | None = None, most: int | None = None) -> int:
    """A whole number within bounds. Raises UsageError."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise UsageError(f"{field} is {value!r}", hint="it is a whole number")
    if (least is not None and value < least) or (most is not None and value > most):
        raise UsageError(f"{field} {value} is out of range", hint=f"it is {least} to {most}")
    return value


def seconds(field: str, value: Any) -> float:
    """A time of at most a day. Raises UsageError."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 <= value <= DAY:
        raise UsageError(f"{field} is {value!r}", hint=f"it is a number of seconds, 0 to {DAY}")
    return float(value)
