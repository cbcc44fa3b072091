"""Names that guests may reach: a table for each network, whose sets its dnsmasq fills. Pure.

``--allow example.org:443`` is about whatever addresses the network's dnsmasq was told for that name
(``nftset=``, dnsmasq(8)). dnsmasq writes an address and nothing else, so a set belongs to a name; a
chain for each owner of such rules asks the sets of its own names. The table is apart from hvtx's
others, since chains and sets come and go in it, and is filled anew, whole, whenever dnsmasq starts.

What a name opens is marked before the policies are asked, by one bit if it is a VM's and by another
if it is its network's; there an owner that has such rules heeds its own bit behind its own denials
(:mod:`hvtx.rulesets.nftables_egress`). So:

- A name opens what is on the internet, and nothing else: whoever answers for it can name the
  metadata service, the LAN or a neighbour (DNS rebinding). The same ranges as of ``internet``.
- Addresses go after :data:`SECONDS`. The kernel does not begin anew when one is told again (tried,
  6.18): so guests ask again at least every :data:`TTL` seconds, and are let through again then.
- dnsmasq adds an address only when it was told by its own resolver, not from its cache: what it
  caches is kept for :data:`TTL` seconds as well.
- Of several names that match, dnsmasq takes the longest alone: a name is given the sets of those
  that it lies below as well. Of these the nearest, as many as a line has room for: of a longer one
  dnsmasq 2.90 says "bad option", and serves nobody.
- Answers fill a set, whoever asks; whom it is open to is in the chains. So a guest opens nothing
  for another that this one could not open by itself.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from hvtx.model.digest import sha256
from hvtx.model.policy import EgressRule
from hvtx.model.typed import TYPE_CHECKING, NamedTuple
from hvtx.rulesets.nftables_egress import (
    NAMED,
    NOT_THE_WORLD4,
    NOT_THE_WORLD6,
    THE_WORLD6,
)
from hvtx.rulesets.nftables_layout import table_name

if TYPE_CHECKING:
    from hvtx.model.service import NamesSpec

SECONDS, TTL = 3600, 60
MOST = 4096  # addresses of a name
_LINE = 1000  # bytes: dnsmasq reads 1024 at a time
HOOK, OWNERS, NETWORK = "names", "owners", "network"
_MARKING = {owner: f"named_{owner}" for owner in NAMED}  # chains
FAMILIES = (4, 6)


class Owner(NamedTuple):
    """Whose names: a VM's, by the MAC address of its interface, or a network's, without one."""

    rules: tuple[EgressRule, ...]
    mac: str | None = None
    apart: bool = False  # it has a mode of its own: those of its network are not asked


def table_of(installation: str, directory: str) -> str:
    """The name of a network's table; the directory of its service is called by its id."""
    return f"{table_name(installation)}-{directory.rpartition('/')[2]}"


def set_of(name: str, family: int) -> str:
    """The set of a name's addresses."""
    return f"n{family}_{sha256(name.encode())[:20]}"


def chain_of(owner: Owner) -> str:
    """The chain of an owner."""
    return f"vm_{owner.mac.replace(':', '')}" if owner.mac else NETWORK


def filled(
    table: str, bridge: str, owners: Sequence[Owner], chains: Collection[str], sets: Collection[str]
) -> str:
    """The commands, one batch, that give a table these owners and no others.

    ``chains`` and ``sets`` are those that it has. A set that stays keeps its addresses.
    """
    names = sorted({rule.to for owner in owners for rule in owner.rules})
    own_sets = [set_of(name, family) for name in names for family in FAMILIES]
    own_chains = [chain_of(owner) for owner in owners]
    at = f"inet {table}"
    lines = [f"flush table {at}"]
    if OWNERS in sets:
        lines.append(f"flush map {at} {OWNERS}")
    stay = {HOOK, *_MARKING.values(), *own_chains}
    lines += [f"delete chain {at} {name}" for name in sorted({*chains} - stay)]
    lines += [f"delete set {at} {name}" for name in sorted({*sets} - {OWNERS, *own_sets})]
    lines.append(f"add map {at} {OWNERS} {{ type ether_addr : verdict; }}")
    for name in own_sets:
        kind = f"ipv{name[1]}_addr"
        what = f"type {kind}; size {MOST}; flags timeout; timeout {SECONDS}s;"
        lines.append(f"add set {at} {name} {{ {what} }}")
    lines += [f"add chain {at} {name}" for name in (*_MARKING.values(), *own_chains)]
    lines.append(
        f"add chain {at} {HOOK} {{ type filter hook forward priority -161; policy accept; }}"
    )
    network = any(owner.mac is None for owner in owners)
    lines += [f"add rule {at} {HOOK} {rule}" for rule in _first(bridge, network=network)]
    for owner_kind, chain in _MARKING.items():
        bit = NAMED[owner_kind]
        lines.append(f"add rule {at} {chain} meta mark set meta mark | {bit} accept")
    for owner in owners:
        chain = chain_of(owner)
        lines += [f"add rule {at} {chain} {rule}" for rule in _rules(owner)]
        if owner.mac:
            lines.append(f"add element {at} {OWNERS} {{ {owner.mac} : jump {chain} }}")
    return "\n".join(lines) + "\n"


def _first(bridge: str, *, network: bool) -> Iterator[str]:
    """What is asked before whose packet it is."""
    yield f'iifname != "{bridge}" accept'
    yield "ct state established,related accept"
    yield f"ip daddr {{ {', '.join(NOT_THE_WORLD4)} }} accept"
    yield f"ip6 daddr != {THE_WORLD6} accept"
    yield f"ip6 daddr {{ {', '.join(NOT_THE_WORLD6)} }} accept"
    yield f"ether saddr vmap @{OWNERS}"
    if network:
        yield f"jump {NETWORK}"


def _rules(owner: Owner) -> Iterator[str]:
    marking = _MARKING["vm" if owner.mac else "network"]
    for rule in owner.rules:
        for family, to in ((4, "ip daddr"), (6, "ip6 daddr")):
            yield f"{to} @{set_of(rule.to, family)}{_ports(rule)} goto {marking}"
    if owner.apart:
        yield "accept"


def _ports(rule: EgressRule) -> str:
    if rule.first_port is None:
        return ""
    protocols = rule.protocol or "{ tcp, udp }"
    last = rule.last_port or rule.first_port
    ports = f"{rule.first_port}-{last}" if last != rule.first_port else f"{last}"
    return f" meta l4proto {protocols} th dport {ports}"


def configuration(table: str, owners: Iterable[Owner]) -> list[str]:
    """The lines of a dnsmasq's configuration by which it fills the sets; none without names."""
    names = sorted({rule.to for owner in owners for rule in owner.rules})
    if not names:
        return []
    found = [f"max-ttl={TTL}", f"max-cache-ttl={TTL}"]
    for name in names:
        above = [each for each in names if name == each or name.endswith(f".{each}")]
        above.sort(key=len, reverse=True)
        sets = [f"{f}#inet#{table}#{set_of(each, f)}" for each in above for f in FAMILIES]
        line = f"nftset=/{name}/{','.join(sets)}"
        found.append(line if len(line) <= _LINE else line[: line.rindex(",4#", 0, _LINE)])
    return found


def closed(installation: str, directory: str, mac: str) -> str:
    """The command by which an interface reaches nothing by names any more."""
    return f"delete element inet {table_of(installation, directory)} {OWNERS} {{ {mac} }}"


def file_of(spec: NamesSpec, mark: str) -> str:
    """The file of an interface."""
    rules = tuple(EgressRule(*rule) for rule in spec["rules"])  # type: ignore[arg-type]
    return written_file(Owner(rules, spec["mac"], spec["apart"]), mark)


def written_file(owner: Owner, mark: str) -> str:
    """An owner as a file of a network's directory, with the mark of its row."""
    lines = [f"# {mark}", f"{owner.mac or '-'} {'apart' if owner.apart else 'more'}"]
    for _, to, *ports in owner.rules:
        lines.append(" ".join((to, *("-" if part is None else str(part) for part in ports))))
    return "\n".join(lines) + "\n"


def read_file(text: str) -> Owner | None:
    """An owner as :func:`written_file` writes it; None of anything else."""
    head, *listed = [line.split(" ") for line in text.splitlines()[1:]] or [[]]
    if len(head) != 2 or any(len(line) != 4 for line in listed):
        return None
    rules = [
        EgressRule("allow", to, *_number(first, last), None if protocol == "-" else protocol)
        for to, first, last, protocol in listed
    ]
    return Owner(tuple(rules), None if head[0] == "-" else head[0], head[1] == "apart")


def _number(*words: str) -> tuple[int | None, int | None]:
    first, last = (int(word) if word.isdigit() else None for word in words)
    return first, last


def addresses(name: str, sets: Mapping[str, Collection[bytes]]) -> frozenset[bytes]:
    """The addresses of a name, packed, among those of a table's sets."""
    return frozenset(one for family in FAMILIES for one in sets.get(set_of(name, family), ()))
