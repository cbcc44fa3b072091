"""Reading what my-hypervisor wrote of a VM: one ``state.json`` in, one claim out.

Newer ones hold ``network_ownership`` with the TAP, its bridge, the guest's address and the
firewall rules in delete form; older ones say nothing of the network. The names of the fields
differed between its versions; those that are known: listed here, and which one was found is
kept.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence

from hvtx.model.typed import Any
from hvtx.planner.adoption.claims import Claim

_TOLD = 160  # characters of what is wrong that a message shows
_PARTS = ("", "runtime_state", "runtime", "state")  # where a field may stand
_OWNERSHIP = ("network_ownership", "network", "ownership")
_FIELDS: Mapping[str, tuple[str, ...]] = {
    "id": ("id", "vm_id", "uuid"),
    "name": ("name", "vm_name"),
    "status": ("status", "state"),
    "pid": ("pid", "process_id"),
    "device": ("tap_device", "tap", "tap_name"),
    "bridge": ("bridge", "bridge_name"),
    "ip": ("ip", "ip_address", "guest_ip"),
    "rules": ("iptables_rules", "iptables", "firewall_rules"),
}


class NotAState(ValueError):
    """A file that is no ``state.json``; its text says why."""


def parse_state(text: str, path: str) -> Claim:
    """Read a ``state.json``; NotAState (or another ValueError) says what is wrong with it."""
    try:
        document = json.loads(text)
    except RecursionError:
        raise NotAState("it is nested too deep") from None
    if not isinstance(document, dict):
        raise NotAState("it is not a JSON object")
    spelling: dict[str, str] = {}
    ownership, where = _ownership(document)

    def field(name: str, parts: Sequence[tuple[str, Mapping[str, Any]]]) -> Any:
        for prefix, part in parts:
            for spelled in _FIELDS[name]:
                if part.get(spelled) is not None and not isinstance(part[spelled], dict):
                    spelling[name] = f"{prefix}{spelled}"
                    return part[spelled]
        return None

    tops = [
        (f"{part}." if part else "", document.get(part, {}) if part else document)
        for part in _PARTS
        if not part or isinstance(document.get(part), dict)
    ]
    inside = [(f"{where}.", ownership)] if ownership is not None else []
    identity, name = field("id", tops), field("name", tops)
    if not isinstance(identity, str) or not identity:
        raise NotAState("it names no VM: there is no id")
    _text(identity, "id")
    return Claim(
        path=path,
        id=identity,
        name=_text(name, "name") or identity,
        status=_text(field("status", tops), "status"),
        pid=_pid(field("pid", tops)),
        device=_text(field("device", inside), "TAP device"),
        bridge=_text(field("bridge", inside), "bridge"),
        ip=_text(field("ip", inside), "address"),
        rules=_rules(field("rules", inside)),
        owns=ownership is not None,
        spelling=spelling,
    )


def _ownership(document: Mapping[str, Any]) -> tuple[Mapping[str, Any] | None, str]:
    for part in _PARTS:
        inside = document.get(part) if part else document
        if isinstance(inside, dict):
            for name in _OWNERSHIP:
                if isinstance(inside.get(name), dict):
                    return inside[name], f"{part}.{name}" if part else name
    return None, ""


def _text(value: Any, what: str) -> str | None:
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise NotAState(f"its {what} is not text: {_short(value)}")
    return _writable(value, what)


def _writable(text: str, what: str) -> str:
    """The text itself, if the kernel and the store can have it; NotAState else."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise NotAState(f"its {what} is not text: {_short(text)}") from None
    if "\0" in text:
        raise NotAState(f"its {what} has a zero byte: {_short(text)}")
    return text


def _short(value: Any) -> str:
    """What somebody wrote, for a message."""
    written = ascii(value)
    return written if len(written) <= _TOLD else f"{written[:_TOLD]}…"


def _pid(value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise NotAState(f"its pid is not a number: {_short(value)}")
    return value if value > 0 else None


def _rules(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise NotAState("its rules are not a list")
    found = []
    for rule in value:
        parts = rule if isinstance(rule, list) else [rule]
        if not all(isinstance(part, str) for part in parts):
            raise NotAState(f"one of its rules is not text: {_short(rule)}")
        words = shlex.join(parts) if isinstance(rule, list) else rule
        found.append(_writable(words, "rule"))
    return tuple(found)
