"""Attributes of nf_tables tables beyond rules: flags, and hooks of chains.

Numbers: include/uapi/linux/netfilter/nf_tables.h.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping

from hvtx.host.netlink import (
    CREATE,
    attribute,
    attribute_map,
    attributes,
    legible,
    nested,
    text,
)
from hvtx.host.nfanswers import Rule
from hvtx.host.nfmessages import Command
from hvtx.host.nfnetlink import Nftables
from hvtx.host.nfnumbers import FAMILY_NAMES, GETCHAIN, GETTABLE
from hvtx.model.digest import sha256
from hvtx.model.hook import HOOKS, Hook

_NEWTABLE, _NEWCHAIN, _DELCHAIN = 0, 3, 5
_NAME, _TABLE_FLAGS = 1, 2
_CHAIN_TABLE, _CHAIN_NAME, _CHAIN_HOOK, _CHAIN_POLICY, _CHAIN_TYPE = 1, 3, 4, 5, 7
_HOOK_NUMBER, _HOOK_PRIORITY, _HOOK_DEVICE, _HOOK_DEVICES = 1, 2, 3, 4
_HOOK_NAMES = {number: name for name, number in HOOKS.items()}
_CHAINS = 1024  # answers that are kept read: more than most hosts have chains
_POLICIES = {0: "drop", 1: "accept"}


def hook_words(hook: Hook | None) -> str:
    """A hook as nft writes it."""
    if hook is None:
        return "no hook"
    devices = f" device {', '.join(hook.devices)}" if hook.devices else ""
    name, policy = _HOOK_NAMES.get(hook.number, str(hook.number)), _POLICIES.get(hook.policy, "?")
    return f"type {hook.type} hook {name}{devices} priority {hook.priority}; policy {policy}"


def digest(rule: Rule) -> str:
    """A static rule's identity: a digest of the raw bytes of its expressions."""
    return sha256(rule.expressions)[:20]


# ---------------------------------------------------------------- reading


def flags(source: Nftables, name: str) -> dict[str, int]:
    """The flags of the tables of a name, by family. Raises OSError, DumpInterrupted."""
    return flags_in(source.dump_all(GETTABLE), name)


def flags_in(tables: Iterable[bytes], name: str) -> dict[str, int]:
    """The same, of answers to GETTABLE. Pure."""
    found = {}
    for body in tables:
        family, table, bits = _table(body)
        if table == name:
            found[family] = bits
    return found


def hooks(source: Nftables, name: str) -> Mapping[str, Mapping[str, Hook | None]]:
    """The chains of the tables of a name, by family. Raises OSError, DumpInterrupted."""
    return hooks_in(source.dump_all(GETCHAIN), name)


def hooks_in(chains: Iterable[bytes], name: str) -> Mapping[str, Mapping[str, Hook | None]]:
    """The same, of answers to GETCHAIN. Pure."""
    found: dict[str, dict[str, Hook | None]] = {}
    for body in chains:
        family, table, chain, hook = _chain(body)
        if table == name:
            found.setdefault(family, {})[chain] = hook
    return found


def family_of(body: bytes) -> str:
    """The family of an answer of nf_tables."""
    return FAMILY_NAMES.get(body[0], str(body[0]))


def string(raw: bytes | None) -> str:
    """A name in an attribute."""
    return (raw or b"").rstrip(b"\0").decode(errors="replace")


def number(raw: bytes | None) -> int:
    """A number in an attribute, 0 where there is none."""
    return int.from_bytes(raw or b"", "big")


@functools.lru_cache(_CHAINS)
@legible
def _table(body: bytes) -> tuple[str, str, int]:
    fields = attribute_map(body, 4)
    return family_of(body), string(fields[_NAME]), number(fields.get(_TABLE_FLAGS))


@functools.lru_cache(_CHAINS)  # a chain that nobody changed is told by the same bytes
@legible
def _chain(body: bytes) -> tuple[str, str, str, Hook | None]:
    fields = attribute_map(body, 4)
    hook = None
    if (raw := fields.get(_CHAIN_HOOK)) is not None:
        inside = attribute_map(raw)
        hook = Hook(
            string(fields.get(_CHAIN_TYPE)),
            number(inside[_HOOK_NUMBER]),
            int.from_bytes(inside[_HOOK_PRIORITY], "big", signed=True),
            number(fields.get(_CHAIN_POLICY)),
            _devices(inside),
        )
    return family_of(body), string(fields[_CHAIN_TABLE]), string(fields[_CHAIN_NAME]), hook


def _devices(inside: Mapping[int, bytes]) -> tuple[str, ...]:
    listed = inside.get(_HOOK_DEVICES, b"")
    found = [string(listed[start:end]) for _, start, end in attributes(listed, 0, len(listed))]
    return tuple(found or filter(None, [string(inside.get(_HOOK_DEVICE))]))


# ---------------------------------------------------------------- changing


def wake(family: str, table: str) -> Command:
    """Take all flags from a table: a dormant one is asked again."""
    body = text(_NAME, table) + attribute(_TABLE_FLAGS, bytes(4))
    return Command(_NEWTABLE, 0, family, body)


def delete_chain(family: str, table: str, chain: str) -> Command:
    """Remove a chain with all that is in it: only ever in a batch with a generation."""
    return Command(_DELCHAIN, 0, family, text(_CHAIN_TABLE, table) + text(_CHAIN_NAME, chain))


def new_chain(family: str, table: str, chain: str, hook: Hook | None) -> Command:
    """Make a chain, with its hook."""
    body = text(_CHAIN_TABLE, table) + text(_CHAIN_NAME, chain)
    if hook is not None:
        number = attribute(_HOOK_NUMBER, hook.number.to_bytes(4, "big"))
        priority = attribute(_HOOK_PRIORITY, hook.priority.to_bytes(4, "big", signed=True))
        body += nested(_CHAIN_HOOK, number, priority)
        body += attribute(_CHAIN_POLICY, hook.policy.to_bytes(4, "big"))
        body += text(_CHAIN_TYPE, hook.type)
    return Command(_NEWCHAIN, CREATE, family, body)
