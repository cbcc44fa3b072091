"""The built-in chains INPUT and FORWARD of the tables that iptables keeps, as they are now.

Those of iptables-nft stand in nf_tables as ``ip filter`` and ``ip6 filter``; legacy ones by
themselves. A table that is not there is not made by looking. Verdict numbers:
include/uapi/linux/netfilter/nf_tables.h and netfilter.h.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Mapping

from hvtx.host import nftshape
from hvtx.host.netlink import Garbled, attribute_map, legible
from hvtx.host.nfanswers import Rule, expressions, is_xt_comment, xt_comment
from hvtx.host.nfnetlink import Nftables
from hvtx.host.nfnumbers import VERDICT_CHAIN, VERDICT_CODE, XT_NAME
from hvtx.host.nfxt import words_of
from hvtx.host.xtblob import end_of, entries, read
from hvtx.host.xtentry import LAYOUTS, OFFSETS, TARGET
from hvtx.model.filter_chain import ChainRule, Does, FilterChain, with_condition
from hvtx.model.hook import HOOKS, Hook

TABLE = "filter"
FAMILIES = {4: "ip", 6: "ip6"}
OWNER = 0x2  # NFT_TABLE_F_OWNER
_DROP, _ACCEPT, _JUMP, _RETURN = 0, 1, -3, -5
_LOGS = frozenset({"LOG", "NFLOG", "ULOG"})
_SILENT = frozenset({"counter", "log", "last"})
_FIXED = {_DROP: Does.DROP, _ACCEPT: Does.ACCEPT, _RETURN: Does.RETURN}
_LABELS = {"DROP": Does.DROP, "ACCEPT": Does.ACCEPT, "RETURN": Does.RETURN, "REJECT": Does.DROP}
_NO_NFTABLES = frozenset({errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT, errno.ENOENT})


# -- of iptables-nft -------------------------------------------------------------------------------


def nf_tables() -> Nftables | None:
    """A socket to ask; None where the kernel has no nf_tables. Raises OSError."""
    try:
        return Nftables()
    except OSError as problem:
        if problem.errno in _NO_NFTABLES:
            return None
        raise


def has_firewalld(socket: Nftables) -> bool:
    """Whether firewalld's own table is there. Raises OSError, DumpInterrupted."""
    return "inet" in nftshape.flags(socket, "firewalld")


def nft_chains(socket: Nftables) -> dict[tuple[int, str], FilterChain]:
    """INPUT and FORWARD of iptables-nft, by family (4, 6) and name; only those that are there.

    Raises OSError, DumpInterrupted; nothing is found where the kernel has no nf_tables.
    """
    try:
        hooks = nftshape.hooks(socket, TABLE)
        flags = nftshape.flags(socket, TABLE) if hooks else {}
    except OSError as problem:
        if problem.errno in _NO_NFTABLES:
            return {}
        raise
    found = {}
    for number, family in FAMILIES.items():
        chains = hooks.get(family, {})
        wanted = {name: hook for name in ("INPUT", "FORWARD") if (hook := _built_in(chains, name))}
        if not wanted:
            continue
        by_chain: dict[str, list[ChainRule]] = {name: [] for name in chains}
        for rule in socket.rules(family, TABLE):
            by_chain.setdefault(rule.chain, []).append(chain_rule(rule))
        for name, hook in wanted.items():
            found[number, name] = FilterChain(
                hook.policy == _DROP,
                tuple(by_chain[name]),
                by_chain,
                bool(flags.get(family, 0) & OWNER),
            )
    return found


def _built_in(chains: Mapping[str, Hook | None], name: str) -> Hook | None:
    hook = chains.get(name)
    return hook if hook is not None and hook.number == HOOKS[name.lower()] else None


@legible
def chain_rule(rule: Rule) -> ChainRule:
    """What a rule of nf_tables does (pure). Raises Garbled."""
    condition, does, leads = False, Does.NOTHING, ""
    for name, data in expressions(rule.expressions):
        fields = attribute_map(data) if name in ("immediate", "target") else {}
        if name == "immediate" and (verdict := _verdict(fields)) is not None:
            does = Does.JUMP if verdict[0] == _JUMP else _FIXED.get(verdict[0], Does.SOME)
            leads = verdict[1] if does is Does.JUMP else ""
        elif name == "reject":
            does = Does.DROP
        elif name == "target":
            target = fields.get(XT_NAME, b"").rstrip(b"\0").decode(errors="replace")
            does = Does.NOTHING if target in _LOGS else _LABELS.get(target, Does.SOME)
        elif name in ("queue", "lookup", "synproxy", "fwd", "dup"):  # a map may hold verdicts
            condition, does = True, Does.SOME
        elif name not in _SILENT and not is_xt_comment(name, data):
            condition = True
    if condition:
        does, leads = with_condition(does, leads)
    mark = rule.comment or xt_comment(rule)
    words = words_of(rule) if rule.comment is None and mark else None
    return ChainRule(does, leads, mark, rule.handle, words)


def _verdict(fields: Mapping[int, bytes]) -> tuple[int, str] | None:
    """The verdict that an ``immediate`` holds; None where it only loads a value."""
    inside = attribute_map(fields.get(2, b"")).get(2)
    if inside is None:
        return None
    parts = attribute_map(inside)
    code = int.from_bytes(parts[VERDICT_CODE], "big", signed=True)
    return code, parts.get(VERDICT_CHAIN, b"").rstrip(b"\0").decode(errors="replace")


# -- of legacy tables ------------------------------------------------------------------------------


def legacy_chains(family: int) -> dict[tuple[int, str], FilterChain]:
    """The same of a legacy table; nothing where the kernel does not list it.

    Raises NotPermitted, HostRefused.
    """
    blob = read(family, TABLE)
    if blob is None:
        return {}
    known = entries(family, blob)
    by_chain: dict[str, tuple[ChainRule, ...]] = {}
    left: list[str] = [name for name in ("INPUT", "FORWARD") if name in known]
    while left:  # only what a packet can come to: our own chains may have a rule for each VM
        name = left.pop()
        if name not in by_chain:
            rules = tuple(legacy_rule(family, entry, known) for entry in known[name])
            by_chain[name] = rules
            left += [rule.leads for rule in rules if rule.leads]
    return {
        (family, name): FilterChain(
            end_of(family, blob, name).policy != "ACCEPT", by_chain[name], by_chain
        )
        for name in ("INPUT", "FORWARD")
        if name in by_chain
    }


@legible
def legacy_rule(family: int, entry: bytes, chains: Mapping[str, object]) -> ChainRule:
    """What a rule of a legacy table does, from its bytes as ``entries`` gives them (pure)."""
    layout = LAYOUTS[family]
    target, _ = OFFSETS.unpack_from(entry, layout.offsets)
    condition, mark, at = any(entry[: layout.match]), None, layout.size
    while at < target:
        (size,) = struct.unpack_from("=H", entry, at)
        if size < TARGET:
            raise Garbled("a match without a length")
        if entry.startswith(b"comment\0", at + 2):
            mark = entry[at + TARGET : at + size].partition(b"\0")[0].decode(errors="replace")
        else:
            condition = True
        at += size
    name = entry[target + 2 : target + 31].partition(b"\0")[0].decode(errors="replace")
    does = Does.NOTHING if name in _LOGS or not name else _LABELS.get(name, Does.SOME)
    leads = name if name in chains else ""
    does = Does.JUMP if leads else does
    if condition:
        does, leads = with_condition(does, leads)
    return ChainRule(does, leads, mark)
