"""Detection of foreign destination NAT: a cheap check with few imports.

Where it says that they may, the kernel is asked about a port (:mod:`hvtx.host.replica.nat`).
"""

from __future__ import annotations

import errno
import functools
from collections.abc import Callable, Iterable, Sequence

from hvtx.host import procfs
from hvtx.host.netlink import attribute_map, legible
from hvtx.host.nfanswers import Rule
from hvtx.host.nfnetlink import Nftables
from hvtx.host.nfnumbers import FAMILY_NAMES, GETCHAIN

OURS = "hvtx-"  # how tables of every installation begin; in legacy tables chains do, HVTX-
# A line of a legacy table that gives packets another destination, with its counters.
# Compiled where one is used: most commands meet no line of these.
LEGACY_RULE = r"\[(\d+):\d+\] (-A (\S+) .*-j (?:DNAT|REDIRECT|NETMAP|TPROXY)\b.*)"
OUR_LINE = r"(?:^:|.*\s)HVTX-"
_CHAIN_TABLE, _CHAIN_HOOK, _CHAIN_TYPE, _HOOK_NUMBER = 1, 4, 7, 1
_PREROUTING, _OUTPUT = 0, 3
_INET, _IP, _IP6 = 1, 2, 10
# Of what is called at a hook, and of nothing else, the kernel tells the type, which is one of these
# (nf_tables_fill_chain_info): of thousands of others' chains most are only jumped to.
_TYPES = (b"filter\0", b"nat\0", b"route\0")
_CHAINS = 1024  # answers that are kept read: more than most hosts have chains at hooks
_TABLES = {"nat", "mangle"}  # legacy ones where something may translate, or give to a proxy
_PROXIES = (b"tproxy\0", b"TPROXY\0")  # natively, and of iptables
_LISTS = ("ip_tables_names", "ip6_tables_names")


def may_translate() -> bool:
    """Whether others have chains, or rules in legacy tables, that could give a destination.

    Raises OSError, HvtxError.
    """
    try:
        channel = Nftables()
    except OSError as problem:
        if problem.errno != errno.EPROTONOSUPPORT:
            raise
        return may_among((), _no_rules)
    try:
        return may_among(channel.dump_all(GETCHAIN), channel.rules)
    finally:
        channel.close()


def _no_rules(family: str, table: str) -> Sequence[Rule]:
    raise AssertionError(f"no chain is in a table {family} {table}")


def may_among(chains: Iterable[bytes], rules: Callable[[str, str], Sequence[Rule]]) -> bool:
    """The same, where all ``chains`` are listed (`Nftables.dump_all`).

    ``rules`` gives those of one table, by its family and name. Raises OSError, HvtxError.
    """
    if _has_chains(chains, rules):
        return True
    if not any(map(_lists_some, _LISTS)):
        return False
    from hvtx.host import xtnames, xtsaved

    return any(
        has_translating(xtsaved.save_text(family))
        for family in xtnames.TOOLS
        if _TABLES & set(xtnames.listed(family))
    )


def _has_chains(chains: Iterable[bytes], rules: Callable[[str, str], Sequence[Rule]]) -> bool:
    """Whether others have such chains of nf_tables."""
    hooks = (body for body in chains if any(kind in body for kind in _TYPES))
    asked = list(filter(is_others_hook, hooks))
    if any(map(translates, asked)):
        return True
    # a proxy stands among rules that only filter, so those are read: in a few tables
    tables = sorted({table_of(body) for body in asked if may_proxy(body)})
    return any(
        proxies(rule.expressions)
        for family, table in tables
        for rule in rules(FAMILY_NAMES.get(family, ""), table)
    )


def _lists_some(name: str) -> bool:
    """Whether the kernel lists a legacy table nat or mangle of a family. Raises OSError."""
    try:
        listed = procfs.read_whole(f"/proc/thread-self/net/{name}").decode()
        return bool(_TABLES & set(listed.split()))
    except OSError as problem:
        if problem.errno == errno.ENOENT:
            return False
        raise


@functools.lru_cache(_CHAINS)  # a chain that nobody changed is told by the same bytes
@legible
def is_others_hook(chain: bytes) -> bool:
    """Whether a chain is others', and the kernel asks it. Raises Garbled. Pure."""
    fields = attribute_map(chain, 4)
    return not fields[_CHAIN_TABLE].startswith(OURS.encode()) and _CHAIN_HOOK in fields


@legible
def table_of(chain: bytes) -> tuple[int, str]:
    """The number of a chain's family, and its table's name. Raises Garbled. Pure."""
    return chain[0], attribute_map(chain, 4)[_CHAIN_TABLE].rstrip(b"\0").decode()


@legible
def may_proxy(chain: bytes) -> bool:
    """Whether a chain is others' and filters before the way is chosen. Raises Garbled. Pure."""
    fields = attribute_map(chain, 4)
    if fields[_CHAIN_TABLE].startswith(OURS.encode()) or _CHAIN_HOOK not in fields:
        return False
    hook = attribute_map(fields[_CHAIN_HOOK]).get(_HOOK_NUMBER, b"")
    routed = chain[0] in (_INET, _IP, _IP6)
    return routed and int.from_bytes(hook, "big") == _PREROUTING


def proxies(expressions: bytes) -> bool:
    """Whether a rule gives packets to a proxy of the host (TPROXY). Pure."""
    return any(word in expressions for word in _PROXIES)


@legible
def translates(chain: bytes) -> bool:
    """Whether a chain is others', and may change where packets go. Raises Garbled. Pure."""
    fields = attribute_map(chain, 4)
    if fields[_CHAIN_TABLE].startswith(OURS.encode()) or _CHAIN_HOOK not in fields:
        return False
    hook = int.from_bytes(attribute_map(fields[_CHAIN_HOOK]).get(_HOOK_NUMBER, b""), "big")
    kind = fields.get(_CHAIN_TYPE, b"").rstrip(b"\0")
    return kind == b"nat" and hook in (_PREROUTING, _OUTPUT)


def has_translating(text: str) -> bool:
    """Whether a legacy table has a rule of others that translates destinations. Pure."""
    import re

    lines = (line for line in text.splitlines() if not re.match(OUR_LINE, line))
    return any(re.match(LEGACY_RULE, f"[0:0] {line}") for line in lines)
