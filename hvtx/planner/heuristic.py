"""The emergency mode: what looks like a dead VM's, by name and subnet. Pure.

This is the guess that everything else in hvtx exists to avoid. It proves nothing, so it stands
apart: nothing of the normal path imports it, it is asked for by name, and it says of each item what
the guess rests on. It never proposes what carries a mark of any hvtx, what some process holds, what
speaks of a VM on record, or what stands in a place that another program keeps for itself.

==============  ==================================================================
reason          when it proposes to delete
==============  ==================================================================
guess-name      a TAP named as VM tools name them, unmarked, idle, with nothing on it
guess-subnet    a rule that speaks of an address of our subnets which no VM has leased
guess-device    a rule that speaks of a device named so, which does not exist
==============  ==================================================================
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence

from hvtx.model.foreign_rule import ForeignRule
from hvtx.model.mark import FAMILY
from hvtx.model.place import NFT
from hvtx.model.plan import Action, Ground, Item, Snapshot
from hvtx.model.reason import Reason
from hvtx.model.resource import DEVICES, Kind, Link, put_by_others
from hvtx.model.shell import word
from hvtx.model.typed import NamedTuple
from hvtx.model.vm import Liveness
from hvtx.planner.mentions import SAID, Mentions, Span, mentions

_IFF_TAP = 0x2

# Names that VM tools give to TAPs of their own making. Short ones (tap0) are left out: OpenVPN and
# people use them; so are vnet0 (libvirt removes its own) and tap1a2b3c4d-5e (OpenStack's ports).
TAP_NAMES = (
    r"tap-[a-z0-9._-]+",
    r"tap[0-9a-f]{8}",
    r"vmtap[a-z0-9._-]*",
    r"vm-[a-z0-9._-]*tap[a-z0-9._-]*",
    r"fc-?tap[a-z0-9._-]*",
    r"ch-?tap[a-z0-9._-]*",
    r"qemu-?tap[a-z0-9._-]*",
    r"hv[a-z0-9._-]+",
)
_TAP_NAME = re.compile("|".join(f"(?:{pattern})" for pattern in TAP_NAMES), re.IGNORECASE)

# Bridges, chains and tables that a program makes, and takes away, for itself.
_KEPT_BRIDGES = re.compile(
    r"docker\d+|docker_gwbridge|br-[0-9a-f]{12}|virbr.*|lxcbr.*|lxdbr.*|incusbr.*|cni\d.*|cni-.*"
    r"|podman\d+|nm-bridge.*|ovs.*|vmbr\d+.*|brq.*|qbr.*|weave|cilium.*|cbr\d+"
)
_KEPT_CHAINS = re.compile(
    r"DOCKER.*|LIBVIRT_.*|ufw6?-.*|f2b-.*|KUBE-.*|CNI-.*|NETAVARK.*|cali-.*|CILIUM.*|flannel.*"
    r"|FLANNEL.*|HVTX-.*|fail2ban-.*|sshguard|ts-.*|INPUT_direct|FORWARD_direct|OUTPUT_direct"
    r"|.*_ZONES(_SOURCE)?|(IN|FWD|FWDI|FWDO|PRE|POST)_.*|.*_direct|INPUT_POLICIES.*|neutron-.*"
)
_KEPT_TABLES = re.compile(
    r"firewalld|docker.*|libvirt.*|netavark|podman.*|lxc|lxd.*|incus.*|kube-.*|cilium.*|fail2ban.*"
    r"|f2b-.*|crowdsec.*|hvtx-.*|tailscale.*|mullvad.*"
)
_OPAQUE = re.compile(r"\bxt (?:match|target) ")  # what nft prints of it says not what it does
_JUMP = re.compile(r"(?:^| )(?:-[jg]|jump|goto) (\S+)")
_TABLES_OF_IPTABLES = frozenset({"mangle", "raw", "security", "broute"})


class HeuristicFacts(NamedTuple):
    """Everything that a guess is made from."""

    snapshot: Snapshot
    rules: tuple[ForeignRule, ...]
    leases: Mapping[str, str]  # address -> id of the VM that has it
    gateways: frozenset[str]
    neighbours: frozenset[str]  # addresses that answered the host of late
    owners: Mapping[int, tuple[int | None, int | None]]  # ifindex -> user and group of a TAP


def guess(sight: HeuristicFacts) -> tuple[Item, ...]:
    """What could be removed, and what looks like it and is left alone; devices before rules."""
    links = {link.ifindex: link for link in sight.snapshot.links}
    taps = [
        _tap(link, sight, links)
        for link in sorted(sight.snapshot.links, key=lambda link: link.name)
        if link.kind == "tun" and link.tun_flags & _IFF_TAP and not _marked(link.alias)
    ]
    named = {name: link for link in sight.snapshot.links for name in (*link.altnames, link.name)}
    spans = _subnets(sight.snapshot)
    rules = (_rule(rule, sight, spans, named) for rule in sight.rules if rule.mark is None)
    return (*taps, *(found for found in rules if found is not None))


def _marked(text: str | None) -> bool:
    return bool(text) and str(text).startswith(FAMILY)


def named_like_a_tap(name: str) -> bool:
    """Whether a name is one that VM tools give."""
    return _TAP_NAME.fullmatch(name) is not None


# -- devices ---------------------------------------------------------------------------------------


def _tap(link: Link, sight: HeuristicFacts, links: Mapping[int, Link]) -> Item:
    master = links.get(link.master)
    evidence: tuple[str, ...] = (
        f"index {link.ifindex}",
        f"alias {link.alias!r}, no mark of hvtx" if link.alias else "no alias",
        f"a port of {master.name}" if master else "a port of no bridge",
    )

    def left(reason: Reason, words: str, *more: str) -> Item:
        found = _item(reason, Kind.TAP, link.name, (*evidence, *more), words)
        return found._replace(link=link)

    if not named_like_a_tap(link.name):
        return left(Reason.FOREIGN, "not named like the device of a VM tool")
    recorded = _on_record(link, sight.snapshot)
    if recorded:
        return left(Reason.RESERVED, f"on record for {recorded}: `hvtx gc --plan` judges it")
    held = sight.snapshot.holders.get(link.name, ())
    if held:
        return left(Reason.IN_USE, f"held open by {', '.join(held)}", *held)
    if not link.persistent:
        return left(Reason.IN_USE, "it lives only as long as the process that holds it")
    if master is not None and (master.kind != "bridge" or _KEPT_BRIDGES.fullmatch(master.name)):
        return left(Reason.FOREIGN, f"a port of {master.name}, which another program keeps")
    if link.master and master is None:
        return left(Reason.OBSERVE_FAILED, "its bridge could not be seen")
    above = _put_on(link, sight.snapshot)
    if above:
        return left(Reason.FOREIGN_DEPENDENTS, f"foreign resources use it: {', '.join(above)}")
    evidence = (*evidence, "its name is like a VM tool's", "no process was seen to hold it")
    words = "an idle TAP named like a VM tool's; nothing proves whose it was"
    again = tap_restore(link, master, sight.owners.get(link.ifindex, (None, None)))
    return _item(Ground.NAME, Kind.TAP, link.name, evidence, words)._replace(
        restore=again, link=link
    )


def _item(
    reason: Reason | Ground, kind: str, key: str, evidence: tuple[str, ...], words: str
) -> Item:
    """A line of the plan: nothing of it is on record, and nothing of it carries a mark."""
    action = Action.DELETE if isinstance(reason, Ground) else Action.SKIP
    return Item.for_object(kind, key, action, reason, evidence=evidence, message=words)


def _on_record(link: Link, snapshot: Snapshot) -> str:
    for row in snapshot.rows:
        if row.kind in DEVICES and (row.key == link.name or row.ifindex == link.ifindex):
            vm = snapshot.vms.get(row.vm or "")
            return f"VM {vm.name!r}" if vm else "this installation"
    return ""


def _put_on(link: Link, snapshot: Snapshot) -> list[str]:
    found = [other.name for other in snapshot.links if other.lower == link.ifindex]
    found += put_by_others(link.ifindex, snapshot.addresses, ())
    found += ["an XDP program"] if link.xdp else []
    found += ["traffic control"] if link.ifindex in snapshot.filtered else []
    return sorted(found)


def tap_restore(
    link: Link, master: Link | None, owner: tuple[int | None, int | None] = (None, None)
) -> str:
    """The commands that make an equal TAP (pure; for the history)."""
    flags = link.tun_flags
    make = ["ip tuntap add dev", word(link.name), "mode tap"]
    make += [f"user {owner[0]}"] if owner[0] is not None else []
    make += [f"group {owner[1]}"] if owner[1] is not None else []
    make += ["pi"] if not flags & 0x1000 else []
    make += ["vnet_hdr"] if flags & 0x4000 else []
    make += ["multi_queue"] if flags & 0x100 else []
    dress = [f"ip link set dev {word(link.name)} address {link.mac} mtu {link.mtu}"]
    dress += [f"alias {word(link.alias)}"] if link.alias else []
    dress += [f"master {word(master.name)}"] if master else []
    dress += ["up"] if link.up else []
    return f"{' '.join(make)} && {' '.join(dress)}"


def _subnets(snapshot: Snapshot) -> list[tuple[Span, str]]:
    return [
        (ipaddress.ip_network(cidr), facts.name)
        for facts in snapshot.networks.values()
        for cidr in facts.subnets
    ]


def _rule(
    rule: ForeignRule,
    sight: HeuristicFacts,
    spans: Sequence[tuple[Span, str]],
    links: Mapping[str, Link],
) -> Item | None:
    """Judge somebody else's rule; None if it speaks neither of our subnets nor of such devices."""
    told = mentions(rule.text, spans)
    suspects = tuple(name for name in told.devices if named_like_a_tap(name.rstrip("+*")))
    missing = tuple(name for name in suspects if name not in links)
    if not told.hosts and not told.ranges and not missing:
        return None
    evidence = ("no mark of hvtx", *_networks_of(told, spans))

    def left(reason: Reason, words: str) -> Item:
        return _item(reason, "rule", rule.key, evidence, words)._replace(rule=rule)

    keeper = keeper_of(rule)
    if keeper:
        return left(Reason.FOREIGN, f"another program's: {keeper}")
    if rule.doubt and _OPAQUE.search(rule.native):
        return left(Reason.OBSERVE_FAILED, f"it could not be read as iptables has it: {rule.doubt}")
    if told.vague:
        return left(Reason.FOREIGN, f"it may be about more than one VM: {told.vague}")
    spared = _spared(told, suspects, sight, spans, links)
    if spared is not None:
        return left(*spared)
    if told.hosts:
        addresses = ", ".join(told.hosts)
        more = [f"{address} is leased to no VM on record" for address in told.hosts]
        ground, words = Ground.SUBNET, f"it mentions {addresses}, which no VM on record has"
    else:
        more = [f"no device named {name}" for name in missing]
        ground, words = Ground.DEVICE, f"it mentions {', '.join(missing)}, which does not exist"
    evidence = (*evidence, *more, f"rule {rule.position} of its chain")
    found = _item(ground, "rule", rule.key, evidence, f"{words}; nothing proves whose it was")
    return found._replace(restore=rule.restore, rule=rule)


def _networks_of(told: Mentions, spans: Sequence[tuple[Span, str]]) -> list[str]:
    found = []
    for text in (*told.hosts, *told.ranges):
        network = ipaddress.ip_network(text)
        for span, name in spans:
            if span.version == network.version and span.overlaps(network):
                found.append(f"{text} is in network {name} ({span})")
                break
    return found


def keeper_of(rule: ForeignRule) -> str:
    """Why a rule belongs to a program that keeps it, in words; empty if none is known to."""
    if rule.place.tool == NFT and _KEPT_TABLES.fullmatch(rule.table):
        return f"it stands in table {rule.table}"
    if rule.table in _TABLES_OF_IPTABLES:
        return f"it stands in table {rule.table}, not among NAT or filter rules"
    if _KEPT_CHAINS.fullmatch(rule.chain):
        return f"it stands in chain {rule.chain}"
    jump = _JUMP.search(SAID.sub("", rule.text))
    if jump and _KEPT_CHAINS.fullmatch(jump[1]):
        return f"it leads to chain {jump[1]}"
    bridges = [n for n in mentions(rule.text, ()).devices if _KEPT_BRIDGES.fullmatch(n)]
    return f"it is about the bridge {bridges[0]}" if bridges else ""


def _spared(
    told: Mentions,
    suspects: Sequence[str],
    sight: HeuristicFacts,
    spans: Sequence[tuple[Span, str]],
    links: Mapping[str, Link],
) -> tuple[Reason, str] | None:
    """What keeps a rule from being guessed at, or None."""
    snapshot = sight.snapshot
    for address in told.hosts:
        if address in sight.leases:
            return _leased(address, sight)
    own = {a.address.partition("/")[0] for a in snapshot.addresses}
    for address in told.hosts:
        if address in sight.gateways or address in own or _edge(address, spans):
            return Reason.RESERVED, (f"it mentions {address}, which is the network's or the host's")
    if told.ranges:
        return Reason.RESERVED, f"it mentions {told.ranges[0]}, not of one VM"
    for address in told.hosts:
        if address in sight.neighbours:
            return Reason.IN_USE, f"something answers at {address} now"
    return _spared_for_devices(told, suspects, snapshot, links)


def _spared_for_devices(
    told: Mentions, suspects: Sequence[str], snapshot: Snapshot, links: Mapping[str, Link]
) -> tuple[Reason, str] | None:
    """What keeps a rule because of a device that it names, or None."""
    recorded = {row.key for row in snapshot.rows if row.kind in DEVICES}
    for name in told.devices:
        if name in recorded and name in suspects:
            return Reason.RESERVED, f"it mentions {name}, which is on record"
    for name in suspects:
        link = links.get(name)
        if link is None:
            continue
        if _marked(link.alias):
            return Reason.RESERVED, f"it mentions {name}, which is marked by hvtx"
        if snapshot.holders.get(name) or not link.persistent:
            return Reason.IN_USE, f"it mentions {name}, which some process holds open"
        if not told.hosts:
            return Reason.FOREIGN, f"it mentions {name}, which exists"
    return None


def _leased(address: str, sight: HeuristicFacts) -> tuple[Reason, str]:
    vm = sight.snapshot.vms.get(sight.leases[address])
    name = vm.name if vm else sight.leases[address]
    words = f"VM {name!r} has {address}"
    if vm is not None and vm.liveness is Liveness.ALIVE:
        return Reason.VM_ALIVE, f"{words}, and runs"
    if vm is not None and vm.liveness is Liveness.UNKNOWN:
        return Reason.LIVENESS_UNKNOWN, f"{words}, and may run"
    return Reason.RESERVED, f"{words}"


def _edge(address: str, spans: Sequence[tuple[Span, str]]) -> bool:
    """Whether an address is a subnet's first or (IPv4) last: no guest has those."""
    one = ipaddress.ip_address(address)
    return any(
        one == span.network_address or (span.version == 4 and one == span.broadcast_address)
        for span, _ in spans
        if one.version == span.version
    )
