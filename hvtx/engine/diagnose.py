"""`doctor`: what on this host would keep VMs from working, with the evidence and the mend."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from typing import Any

from hvtx.drivers.sysctl import read as read_setting
from hvtx.engine import privileges
from hvtx.engine.finding import Finding
from hvtx.engine.runtime import Runtime, Settings
from hvtx.errors import HostRefused, HvtxError
from hvtx.host import capabilities, procfs, program, tun
from hvtx.host.mounts import filesystem_of
from hvtx.host.netlink import DumpInterrupted
from hvtx.hypervisors import base as hypervisors
from hvtx.model.mark import FAMILY
from hvtx.model.resource import Kind
from hvtx.model.user import User
from hvtx.store import leases, records, reserve, trust

Check = Callable[[Runtime], Iterator[Finding]]
_MEND = "run hvtx as root, for instance with sudo, and look at the kernel's log"


def diagnose(runtime: Runtime) -> dict[str, Any]:
    """The interface's ``doctor`` object; a check that fails itself is a warning, never a pass."""
    return _document(_findings(runtime, CHECKS))


def without_store(settings: Settings, problem: HvtxError) -> dict[str, Any]:
    """The same of a host whose store cannot be opened: that first, then what needs no store."""
    told = Finding("store", "error", problem.message, (problem.code,), problem.hint)
    checks = {name: check for name, check in CHECKS.items() if name not in _OF_RECORDS}
    with closing(Runtime(settings._replace(state_directory=_NOWHERE), writable=False)) as runtime:
        return _document([told, *_findings(runtime, checks)])


def _findings(runtime: Runtime, checks: Mapping[str, Check]) -> list[Finding]:
    findings: list[Finding] = []
    for name, check in checks.items():
        try:
            findings += check(runtime)
        except (HvtxError, OSError, ValueError) as problem:
            mend = problem.hint if isinstance(problem, HvtxError) else None
            words = f"could not be checked: {problem}"
            findings.append(Finding(name, "warning", words, (), mend or _MEND))
    return findings


def _document(findings: Sequence[Finding]) -> dict[str, Any]:
    return {
        "schema": "hvtx/doctor/1",
        "findings": [{**f._asdict(), "evidence": list(f.evidence)} for f in findings],
    }


# -- this program's footing ------------------------------------------------------------------------


def _permissions(runtime: Runtime) -> Iterator[Finding]:
    if capabilities.has("CAP_NET_ADMIN"):
        yield Finding("permissions", "ok", "CAP_NET_ADMIN is there")
    else:
        effective = capabilities.sets()["CapEff"]
        yield Finding(
            "permissions", "error", "CAP_NET_ADMIN is missing: nothing can be made or removed",
            (f"effective capabilities {effective:#x}",), "run hvtx as root, for instance with sudo",
        )  # fmt: skip
    problem = privileges.legacy_problem()
    if problem is not None:
        used = any(n.firewall == "iptables" for n in runtime.read(records.networks))
        words = "networks here live in them" if used else "rules of others in them are not seen"
        yield Finding(
            "permissions", "error" if used else "warning", f"{problem.message}; {words}", (),
            problem.hint,
        )  # fmt: skip
    hidden = [n for n in ("CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH") if not capabilities.has(n)]
    if hidden:
        yield Finding(
            "permissions", "warning",
            f"who holds a device open cannot always be named without {' and '.join(hidden)}",
            ("a device that is held open is left alone all the same",),
            "run hvtx as root, or with these capabilities (docs/privileges.md)",
        )  # fmt: skip


def _store(runtime: Runtime) -> Iterator[Finding]:
    if runtime.store.missing:
        yield Finding("store", "ok", "no state store yet; the first network or VM makes it")
        return
    if runtime.refused is not None:
        yield Finding(
            "store", "error", runtime.refused.message, (runtime.refused.code,), runtime.refused.hint
        )
    for path, wanted in ((runtime.settings.state_directory, 0o700), (runtime.store.path, 0o600)):
        mode = stat.S_IMODE(os.stat(path).st_mode)
        if mode & 0o077:
            yield Finding(
                "store", "warning", f"{path} can be read or written by others",
                (f"mode {mode:04o}",), f"chmod {wanted:o} {path}",
            )  # fmt: skip
    yield from judge_filesystem(runtime.store.path, filesystem_of(runtime.store.path))
    yield from judge_room(runtime.settings.state_directory)
    try:
        trust.check_pages(runtime.store)
    except HvtxError as problem:
        yield Finding("store", "error", problem.message, (), problem.hint)
    else:
        yield Finding("store", "ok", f"{runtime.store.path} is sound")


# SQLite's log needs memory that all writers share, and locks that hold (sqlite.org/wal.html).
_REMOTE = {"9p", "afs", "ceph", "cifs", "fuse.sshfs", "gfs2", "glusterfs", "nfs", "nfs4", "ocfs2",
           "smb3"}  # fmt: skip
_SPACIOUS = 16 << 20  # bytes left on a disk that is not nearly full
_FLEETING = {"tmpfs", "ramfs", "overlay"}


def judge_filesystem(path: str, kind: str) -> Iterator[Finding]:
    """What a store must expect of the type of file system that it lies on."""
    hint = "keep it on a disk of this host: --state-dir"
    if kind in _REMOTE:
        words = f"{path} is on a file system of other hosts: it can be lost or damaged"
        yield Finding("store", "error", words, (kind,), hint)
    elif kind in _FLEETING:
        words = f"{path} is gone with the next boot or with this container, and leases with it"
        yield Finding("store", "warning", words, (kind,), hint)


def judge_room(directory: str) -> Iterator[Finding]:
    """Whether the store's disk is nearly full, and whether a full one would stop nothing."""
    if reserve.lacks_inodes(directory):
        words = f"the disk of {directory} is full: it has no inodes left, so nothing can be made"
        hint = "remove files there that nobody needs (df -i)"
        yield Finding("store", "warning", words, (f"{reserve.inodes(directory)} inodes",), hint)
    left = reserve.room(directory)
    kept = reserve.is_there(directory)
    if left is None or (kept and left >= _SPACIOUS):
        return
    words = f"the disk of {directory} is nearly full: {left >> 10} KiB are left"
    if left < reserve.LOW:
        words = f"the disk of {directory} is full: no VM or network can be made or started"
    if not kept:
        words += "; the reserve, by which VMs can be ended on a full disk, is used up"
        if left >= _SPACIOUS:
            words = f"{directory} has no reserve yet, by which VMs can be ended on a full disk"
    hint = "free some space there; the next change makes the reserve again"
    yield Finding("store", "warning", words, (f"{left} bytes left",), hint)


def _operations(runtime: Runtime) -> Iterator[Finding]:
    operations = runtime.read(records.operations)
    running = runtime.running(operations)
    left = [o for o in operations if not running[o.id]]
    if left:
        wait = "s wait" if len(left) > 1 else " waits"
        yield Finding(
            "operations", "warning", f"{len(left)} interrupted operation{wait} to be resolved",
            tuple(f"{o.verb} {o.vm or o.network or ''} since {o.started}" for o in left),
            "hvtx recover",
        )  # fmt: skip
    else:
        yield Finding("operations", "ok", "nothing is interrupted")


# -- the kernel ------------------------------------------------------------------------------------


def _tun(runtime: Runtime) -> Iterator[Finding]:
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


def _libraries(runtime: Runtime) -> Iterator[Finding]:
    """What no package of Python brings along; every network needs it, of either backend."""
    from hvtx.host import libnftables

    try:
        libnftables.load()
    except HostRefused as problem:
        words = f"{problem.message}: no network can be made, with either firewall"
        yield Finding("libraries", "error", words, (), problem.hint)
    else:
        yield Finding("libraries", "ok", f"{libnftables.LIBRARY} can be loaded")


def _netfilter(runtime: Runtime) -> Iterator[Finding]:
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


def _iptables(runtime: Runtime) -> Iterator[Finding]:
    """Whether the iptables backend can work, where a network has it or the next one would."""
    from hvtx.host import xtables

    lack = xtables.lack()
    if lack is None:
        yield Finding("iptables", "ok", "the iptables backend has what it works with")
        return
    firewall = runtime.settings.firewall
    used = [n.name for n in runtime.read(records.networks) if n.firewall == "iptables"]
    evidence = tuple(f"network {name!r} lives in the legacy tables" for name in used)
    if firewall == "iptables":
        evidence += ("--firewall iptables is asked for",)
    elif (
        firewall == "auto" and not used and any(xtables.in_use(family) for family in xtables.TOOLS)
    ):
        evidence += ("rules or policies of this host stand in legacy tables",)
    if evidence:
        yield Finding("iptables", "error", lack.message, evidence, lack.hint)
    else:
        yield Finding("iptables", "ok", f"nothing here needs it; else: {lack.message}")


def _hypervisors(runtime: Runtime) -> Iterator[Finding]:
    """QEMU, which VMs run in unless told otherwise; others where a VM on record needs them."""
    machine, needed = os.uname().machine, {"qemu": [], **_by_hypervisor(runtime)}
    missing = False
    for hypervisor, vms in needed.items():
        names = hypervisors.binary_names(hypervisor, machine)
        if not names or program.find(names) is not None:
            continue
        missing = True
        who = f"VMs of {hypervisor} cannot start"
        if vms:
            who = f"VMs that need it cannot start: {', '.join(vms)}"
        yield Finding(
            "hypervisors", "error" if vms else "warning", f"{names[0]} is not on PATH; {who}", (),
            hypervisors.TRAITS[hypervisor].hint,
        )  # fmt: skip
    if not missing:
        yield Finding("hypervisors", "ok", "what VMs run in is there")


def _vm_user(runtime: Runtime) -> User | None:
    settings = runtime.settings
    return privileges.need_user(settings.vm_user, runtime.installation, settings.state_directory)


def _users(runtime: Runtime) -> Iterator[Finding]:
    """Whether VM processes run as another user than the store's, and what else shuts them in."""
    from hvtx.host import seccomp, vmuser

    wanted = runtime.settings.vm_user
    try:
        user = _vm_user(runtime)
    except HvtxError as problem:
        yield Finding("users", "error", f"no VM can start: {problem.message}", (), problem.hint)
        return
    if user is None:
        words = "VM processes run as root: who breaks out of one rules this host"
        hint = f'leave vm_user = "{wanted}" out of the configuration'
        yield Finding("users", "warning", words, (f"vm_user is {wanted!r}",), hint)
        return
    binary = program.find(hypervisors.binary_names("qemu", os.uname().machine))
    lacks = []
    if not vmuser.may_make_namespaces():
        lacks.append("no network namespace of its own: that takes CAP_SYS_ADMIN, and unshare")
    if binary is not None and seccomp.sandbox_of(binary) is None:
        lacks.append(f"no filter of system calls: {binary} was built without libseccomp")
    with suppress(OSError):
        mode = stat.S_IMODE(os.stat(tun.DEVICE).st_mode)
        if mode & 0o006 != 0o006:
            yield Finding(
                "users", "warning",
                f"only QEMU has a network: others may not open {tun.DEVICE} as their VM's user",
                (f"mode {mode:04o}",), f"chmod 666 {tun.DEVICE}; QEMU is handed its devices open",
            )  # fmt: skip
    if lacks:
        words = "QEMU is shut in less than it could be"
        yield Finding("users", "warning", words, tuple(lacks), "see docs/privileges.md")
    whom = "a user id of its own" if user.name is None else f"user {user.name}"
    yield Finding("users", "ok", f"each VM process runs as {whom}, without capabilities")


def _by_hypervisor(runtime: Runtime) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for vm in runtime.read(records.vms):
        found.setdefault(vm.hypervisor, []).append(vm.name)
    return found


def _kvm(runtime: Runtime) -> Iterator[Finding]:
    from hvtx.engine.accelerators import judge

    try:
        user = _vm_user(runtime)
    except HvtxError:
        user = None  # another check tells
    yield Finding("kvm", *judge(runtime.store.run_directory, user))


def _forwarding(runtime: Runtime) -> Iterator[Finding]:
    if runtime.settings.state_directory == _NOWHERE:
        yield _forwarding_unasked()
        return
    from hvtx.engine import forwarding
    from hvtx.engine.network_build import bridge_row

    pairs = [(n, bridge_row(runtime, n)) for n in runtime.read(records.networks)]
    yield from forwarding.findings(runtime, [(n, row) for n, row in pairs if row is not None])


def _forwarding_unasked() -> Finding:
    """Whether the host forwards, where the store cannot say which networks need it."""
    off = read_setting("net/ipv4/ip_forward") != "1"
    words = f"net.ipv4.ip_forward is {'off' if off else 'on'}; which networks need it is on record"
    mend = "sysctl -w net.ipv4.ip_forward=1, if VMs here reach nothing" if off else None
    return Finding("forwarding", "warning" if off else "ok", words, (), mend)


def _loopback6(runtime: Runtime) -> Iterator[Finding]:
    served = runtime.read(leases.loopback6_ports)
    if served:
        yield Finding(
            "loopback", "warning", f"{served} published ports are not reachable through [::1]",
            ("NAT cannot serve [::1]",), "use 127.0.0.1 or another address of this host",
        )  # fmt: skip


# -- others on this host ---------------------------------------------------------------------------


def _forward(runtime: Runtime) -> Iterator[Finding]:
    """Whether what guests are promised passes, tried in a copy of the host's forwarding."""
    from hvtx.engine import forward
    from hvtx.engine.mending import Mender
    from hvtx.host.replica.scratch import Unavailable

    networks = runtime.read(records.networks)
    wish = None if networks else forward.would_be(runtime)
    try:
        found = forward.judge(runtime, wish)
    except (Unavailable, HvtxError, OSError, ValueError, DumpInterrupted) as problem:
        hint = problem.hint if isinstance(problem, Unavailable | HvtxError) else None
        words = f"unknown: whether traffic of guests passes could not be tried: {problem}"
        yield Finding("forward", "warning", words, (), hint or _MEND)
        return
    mender = Mender(runtime, () if wish is None else (wish,))
    yield from forward.findings(found, bool(networks), mender.of)


def _routes(runtime: Runtime) -> Iterator[Finding]:
    """Whether packets of guests find their way: asked of the kernel, one finding a cause."""
    from hvtx.engine import ways
    from hvtx.engine.network_build import bridge_row

    with runtime.reading() as sql:
        networks, vms = records.networks(sql), records.vms(sql)
    bad = False
    for network in networks:
        row = bridge_row(runtime, network)
        if row is None:
            continue
        own = [i for vm in vms for i in vm.interfaces if i.network == network.id]
        guests = [address for i in own for address in (i.ipv4, i.ipv6) if address]
        guests += ways.samples(network)
        told = ways.strays(network, row, guests) + ways.without_world(network, row, guests)
        causes: dict[str, list[ways.Stray]] = {}
        for stray in told:
            causes.setdefault(stray.cause, []).append(stray)
        for cause, packets in causes.items():
            bad = True
            seen = dict.fromkeys(f"{p.ask.way}: {p.ask.packet.destination}" for p in packets)
            yield Finding(
                "routes", "error",
                f"{cause} takes packets away from the guests of network {network.name!r}",
                tuple(seen)[:_MANY], packets[0].mend,
            )  # fmt: skip
        for part, hint in ways.taken_parts(network, row, told):
            yield Finding("routes", "warning", part, (), hint)
            bad = True
    if not bad:
        yield Finding("routes", "ok", "packets for guests go to them, by the kernel's own answer")


def _addresses(runtime: Runtime) -> Iterator[Finding]:
    """Addresses of guests that the host has itself, or looks for at another MAC address."""
    from hvtx.engine import own_addresses
    from hvtx.engine.network_build import bridge_row

    with runtime.reading() as sql:
        networks, vms = records.networks(sql), records.vms(sql)
        started = {row.vm for row in records.resources_of_kind(sql, Kind.TAP)}
        rows = [(network.id, bridge_row(runtime, network)) for network in networks]
    bridges = {i: (row.spec["ifindex"], row.key) for i, row in rows if row is not None}
    wrong = own_addresses.wrong_neighbours(vms, bridges)
    for entry in wrong:
        yield Finding(
            "addresses", "error" if entry.vm.id in started else "warning",
            f"an entry that was made by hand leads past VM {entry.vm.name!r} ({entry.address})",
            (f"the host's neighbour table has {entry.address} at {entry.mac} on {entry.device}",),
            f"ip neigh del {entry.address} dev {entry.device}",
        )  # fmt: skip
    found = own_addresses.taken_from(vms, own_addresses.in_subnets(networks))
    for vm, own in found:
        yield Finding(
            "addresses", "error" if vm.id in started else "warning",
            f"{own.address} is the address of VM {vm.name!r}, and this host has it itself",
            (f"{own.prefix} on {own.device}: the host answers in the guest's place",),
            own_addresses.mend(own),
        )  # fmt: skip
    if not found and not wrong:
        yield Finding("addresses", "ok", "this host has no address of a guest")


def _ports(runtime: Runtime) -> Iterator[Finding]:
    """Published ports that others translate, too: one of the two is cut off."""
    from hvtx.engine import translations
    from hvtx.engine.holding import port_of

    with runtime.reading() as sql:
        every = records.committed_resources(sql, Kind.PUBLISH)
        names = {vm: name for vm, name, _, _ in records.vm_heads(sql)}
    rows = [r for r in every if r.life == runtime.life.id and not r.spec.get("imported")]
    found, unknown = translations.beside(rows)
    owners = {port_of(row): names.get(row.vm or "", "?") for row in rows}
    for one in found:
        port, vm = f"{one.port.host_port}/{one.port.protocol}", owners[one.port]
        effect = "that comes first: the VM is not reached by it"
        if not one.first:
            effect = "hvtx's own comes first: what that rule is for is cut off"
        yield Finding(
            "ports", "error" if one.first else "warning",
            f"port {port} of VM {vm!r} is translated by a rule of another program, too; {effect}",
            (one.rule,),
            f"take that rule away where it comes from, or give the port up: hvtx vm stop {vm}",
        )  # fmt: skip
    for words in unknown:
        told = f"unknown: whether others translate published ports: {words}"
        yield Finding("ports", "warning", told, (), "try again, as root")
    if not found and not unknown:
        yield Finding("ports", "ok", "nobody else translates a published port")


def _damage(runtime: Runtime) -> Iterator[Finding]:
    """What others flushed or changed under networks and running VMs."""
    from hvtx.engine.damage import look_now
    from hvtx.engine.leftovers import stuck
    from hvtx.engine.snapshot import take_snapshot

    if runtime.store.missing or runtime.refused is not None:
        return
    snapshot = take_snapshot(runtime)
    damages, strange, unseen = look_now(runtime, snapshot)
    found = [d for d in damages if d.row.kind != Kind.SYSCTL]
    for damage in found:
        yield Finding(
            "damage", "warning" if damage.soft or damage.harmless else "error",
            f"{damage.row.kind} {damage.row.key}: {damage.missing}",
            damage.seen.evidence, damage.mend,
        )  # fmt: skip
    for one in strange:
        level = "error" if one.stops else "warning"
        yield Finding("damage", level, f"{one.place}: {one.words}", (), one.mend)
    for why, rows in unseen.items():
        yield Finding(
            "damage", "warning", f"{', '.join(rows)} could not be looked at", (why,), _MEND
        )
    passing = _passes(runtime)
    for words in passing:
        yield Finding("damage", "error", words, (), "hvtx repair")
    left = stuck(snapshot)
    for remains in left:
        words = f"what {remains.whose} left on this host cannot be released, and stays in its way"
        yield Finding("damage", "error", words, remains.words, remains.hint)
    if not found and not strange and not unseen and not passing and not left:
        yield Finding("damage", "ok", "everything that runs has what is on record")


def _passes(runtime: Runtime) -> tuple[str, ...]:
    """What of the iptables backend's accepts is not as the host's policy and devices want it."""
    if not any(n.firewall == "iptables" for n in runtime.read(records.networks)):
        return ()
    from hvtx.engine.passes import change

    return change(runtime).words


_MANY = 8  # packets that are named of those that one route takes away


_NEARLY_FULL = 0.9  # of connection tracking: a full table drops every new connection


def _conntrack(runtime: Runtime) -> Iterator[Finding]:
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
        for address in (i.ipv4, i.ipv6)
        if address
    }
    evidence: tuple[str, ...] = ()
    hint = "find who makes them (conntrack -L), or allow more: sysctl -w net.netfilter"
    hint += f".nf_conntrack_max={2 * fill.limit}"
    try:
        flows = Counter[str]()
        for address, number in conntrack.users(owners).items():
            flows[owners[address]] += number
    except (OSError, DumpInterrupted, ValueError):
        evidence = ("who has them could not be listed",)
    else:
        evidence = tuple(f"VM {name}: {number}" for name, number in flows.most_common(3))
        if flows:
            name = flows.most_common(1)[0][0]
            hint = f"see what VM {name} does, or stop it: hvtx vm stop {name}; or {hint}"
    words = f"{part} are in use: new ones of every VM and of this host are dropped when it is full"
    yield Finding("conntrack", "warning", words, evidence, hint)


def _watchers(runtime: Runtime) -> Iterator[Finding]:
    """Managers of networks that have taken up devices that they did not make."""
    from hvtx.host.links import Links
    from hvtx.host.managers import NETWORKD, managers
    from hvtx.planner import company

    with closing(Links()) as links:
        ours = [link for link in links.all() if (link.alias or "").startswith(FAMILY)]
    found = managers([(link.ifindex, link.name) for link in ours], company.kept_files())
    bridges = [link.name for link in ours if link.kind == "bridge"]
    for manager in found:
        if manager.unknown is not None:
            yield Finding(
                "company", "warning", f"which devices {manager.name} has taken up is unknown",
                (manager.unknown,), "run hvtx as root, where nmcli answers",
            )  # fmt: skip
        if not manager.taken:
            continue
        if manager.name == NETWORKD:
            harm = "when it starts, it takes ports and addresses off bridges"
            mend = company.networkd_mend(manager.taken, bridges, manager.files)
        else:
            harm = "its tools take them down or remove them"
            mend = company.network_manager_mend(
                (taken.device for taken in manager.taken), bridges, manager.files
            )
        yield Finding(
            "company", "warning", f"{manager.name} has taken up devices of hvtx: {harm}",
            tuple(f"{taken.device}: {taken.by}" for taken in manager.taken), mend,
        )  # fmt: skip
    if not any(manager.taken or manager.unknown for manager in found):
        yield Finding("company", "ok", "no manager of networks has taken up devices of hvtx")


def _processes(runtime: Runtime) -> Iterator[Finding]:
    facts = procfs.look(os.getpid())
    if facts.error or not facts.exists:
        yield Finding(
            "processes", "error", "processes cannot be looked at: every VM counts as unknown",
            (facts.error,), "mount /proc of this pid namespace, without hidepid",
        )  # fmt: skip
    else:
        yield Finding("processes", "ok", "processes can be told apart")


def _units(runtime: Runtime) -> Iterator[Finding]:
    """Units in /etc, written by an earlier hvtx, in whose place the Debian package has its own."""
    from hvtx.engine.systemd import hidden

    paths = hidden()
    if paths:
        yield Finding(
            "units", "warning", "copies hide the units of the Debian package hvtx", tuple(paths),
            "hvtx systemd install",
        )  # fmt: skip


CHECKS: dict[str, Check] = {
    "permissions": _permissions,
    "store": _store,
    "operations": _operations,
    "processes": _processes,
    "tun": _tun,
    "libraries": _libraries,
    "netfilter": _netfilter,
    "iptables": _iptables,
    "hypervisors": _hypervisors,
    "users": _users,
    "kvm": _kvm,
    "forwarding": _forwarding,
    "loopback": _loopback6,
    "conntrack": _conntrack,
    "forward": _forward,
    "company": _watchers,
    "routes": _routes,
    "addresses": _addresses,
    "ports": _ports,
    "damage": _damage,
    "units": _units,
}
_OF_RECORDS = frozenset(
    {"store", "operations", "processes", "routes", "addresses", "ports", "damage"}
)
_NOWHERE = "/nonexistent"  # where no store is, so that an empty one is read
