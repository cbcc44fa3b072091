"""Checks of the kernel and its libraries: TUN, netfilter, forwarding, connection tracking."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from hvtx.engine import privileges
from hvtx.engine.finding import NOWHERE, Finding
from hvtx.engine.runtime import Runtime
from hvtx.errors import HostRefused
from hvtx.host import tun
from hvtx.host.netlink import DumpInterrupted
from hvtx.host.sysctl import read as read_setting
from hvtx.store import leases, records


def check_tun(runtime: Runtime) -> Iterator[Finding]:
    """Whether the TUN device is there, and opens."""
    try:
        if (refusal := privileges.tun_problem()) is not None:
            yield Finding("tun", "error", refusal.message, (), refusal.hint)
            return
        tun.check()
    except OSError as problem:
        missing = tun.refusal(problem, ": no VM can have a network")
        words = f"{tun.DEVICE} does not work: no VM can have a network"
        yield Finding(
            "tun", "error", missing.message if missing else words, (str(problem.strerror),),
            missing.hint if missing else "modprobe tun",
        )  # fmt: skip
    else:
        yield Finding("tun", "ok", "/dev/net/tun is the tun device, and opens")


def check_libraries(runtime: Runtime) -> Iterator[Finding]:
    """What no package of Python brings along; every network needs it, of either backend."""
    from hvtx.host import libnftables

    try:
        libnftables.load()
    except HostRefused as problem:
        words = f"{problem.message}: no network can be made, with either firewall"
        yield Finding("libraries", "error", words, (), problem.hint)
    else:
        yield Finding("libraries", "ok", f"{libnftables.LIBRARY} can be loaded")


def check_netfilter(runtime: Runtime) -> Iterator[Finding]:
    """Whether nf_tables answers."""
    from hvtx.host import libnftables

    try:
        entries = runtime.firewall("nftables").observe()
        if libnftables.is_there():
            libnftables.run("list tables")
    except HostRefused as problem:
        yield Finding(
            "netfilter", "error", f"{problem.message}: no VM can have a network", (),
            problem.hint or "modprobe -a nfnetlink nf_tables",
        )  # fmt: skip
        return
    ours = sum(1 for entry in entries if entry.mark)
    yield Finding("netfilter", "ok", f"nf_tables answers ({ours} marked entries)")


def check_iptables(runtime: Runtime) -> Iterator[Finding]:
    """Whether the iptables backend can work, where a network has it or the next one would."""
    from hvtx.host import xtblob, xtnames, xtneeds

    lack = xtneeds.lack()
    if lack is None:
        yield Finding("iptables", "ok", "the iptables backend has all that it needs")
        return
    firewall = runtime.settings.firewall
    used = [n.name for n in runtime.read(records.networks) if n.firewall == "iptables"]
    evidence = tuple(f"network {name!r} lives in the legacy tables" for name in used)
    if firewall == "iptables":
        evidence += ("--firewall iptables is asked for",)
    elif firewall == "auto" and not used and any(xtblob.in_use(family) for family in xtnames.TOOLS):
        evidence += ("rules or policies of this host stand in legacy tables",)
    if evidence:
        yield Finding("iptables", "error", lack.message, evidence, lack.hint)
    else:
        yield Finding("iptables", "ok", f"not needed on this host: {lack.message}")


def check_forwarding(runtime: Runtime) -> Iterator[Finding]:
    """Whether the host forwards, where networks need it."""
    if runtime.settings.state_directory == NOWHERE:
        yield _forwarding_unasked()
        return
    from hvtx.engine import forwarding
    from hvtx.engine.scope import all_networks

    scope = all_networks(runtime)
    bridges = scope.bridges()
    pairs = [(n, bridges[n.id]) for n in scope.networks.values() if n.id in bridges]
    yield from forwarding.findings(runtime, pairs)


def _forwarding_unasked() -> Finding:
    """Whether the host forwards, where the store cannot say which networks need it."""
    off = read_setting("net/ipv4/ip_forward") != "1"
    words = f"net.ipv4.ip_forward is {'off' if off else 'on'}; which networks need it is on record"
    fix = "sysctl -w net.ipv4.ip_forward=1, if VMs here reach nothing" if off else None
    return Finding("forwarding", "warning" if off else "ok", words, (), fix)


def check_loopback6(runtime: Runtime) -> Iterator[Finding]:
    """Published ports that are not reached through [::1]."""
    served = runtime.read(leases.loopback6_ports)
    if served:
        ports = "1 published port is" if served == 1 else f"{served} published ports are"
        yield Finding(
            "loopback", "warning", f"{ports} not reachable through [::1]",
            ("NAT cannot serve [::1]",), "use 127.0.0.1 or another address of this host",
        )  # fmt: skip


_NEARLY_FULL = 0.9  # of connection tracking: a full table drops every new connection


def check_conntrack(runtime: Runtime) -> Iterator[Finding]:
    """How full connection tracking is, and which guest fills it."""
    from hvtx.host import conntrack

    fill = conntrack.fill()
    if fill is None:
        yield Finding("conntrack", "ok", "no connection is tracked here")
        return
    part = f"{fill.entries} of {fill.limit} tracked connections"
    if fill.part < _NEARLY_FULL:
        yield Finding("conntrack", "ok", f"{part} are in use")
        return
    owners = {
        address: vm.name
        for vm in runtime.read(records.vms)
        for i in vm.interfaces
        for address in i.addresses
    }
    evidence: tuple[str, ...] = ()
    hint = "find who makes them (conntrack -L), or allow more: sysctl -w net.netfilter"
    hint += f".nf_conntrack_max={2 * fill.limit}"
    try:
        flows = Counter[str]()
        for address, number in conntrack.users(owners).items():
            flows[owners[address]] += number
    except (OSError, DumpInterrupted, ValueError):
        evidence = ("their owners could not be listed",)
    else:
        evidence = tuple(f"VM {name}: {number}" for name, number in flows.most_common(3))
        if flows:
            name = flows.most_common(1)[0][0]
            hint = f"see what VM {name} does, or stop it: hvtx vm stop {name}; or {hint}"
    words = (
        f"{part} are in use: when the table is full, new connections of every VM and of "
        "this host are dropped"
    )
    yield Finding("conntrack", "warning", words, evidence, hint)
