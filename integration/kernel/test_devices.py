"""Devices, and what others do to them: names, indexes, marks, settings, uppers, queues."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from hvtx.drivers.address import AddressDriver
from hvtx.drivers.base import Host
from hvtx.drivers.tap.driver import TapDriver
from hvtx.errors import Conflict, HostRefused
from hvtx.host import openfiles, tun
from hvtx.host.fd_passing import close_all, open_all
from hvtx.host.netlink import Channel, attribute, nested
from hvtx.host.nfnetlink import Nftables
from hvtx.model.passed_fds import TAP, PassedDescriptors
from hvtx.model.resource import Kind, Resource, State
from integration import lab
from integration.lab import witness
from integration.lab.program import Forked, Program, preload
from integration.lab.verbs import ended, stopped
from integration.lab.waiting import until

TUNSETIFF, TUNSETPERSIST, TUNSETQUEUE = 0x400454CA, 0x400454CB, 0x400454D9
IFF_TUN, IFF_TAP, IFF_NO_PI, IFF_VNET_HDR, IFF_MULTI_QUEUE = 1, 2, 0x1000, 0x4000, 0x100
NEWLINK, RENAME_FAILS = 16, errno.EEXIST
SYS_BPF = 280 if os.uname().machine == "aarch64" else 321
MARK = "hvtx:1:aaaaaaaaaa:7.bbbbbbbbbbbbbbbb"


@pytest.fixture
def hvtx() -> Iterator[Program]:
    """A program with a network and a running VM `web`."""
    preload()
    lab.duplicate_detection("1")
    program = Forked(HVTX_FIREWALL="nftables")
    program("network", "create", "net", "--subnet", "10.77.0.0/24", "--bridge", "hvnet")
    program("vm", "run", "web", "-p", "8080:80", "--network", "net", "--", "sleep", "600")
    yield program
    for vm in program("vm", "ls", "--json", code=None).json().get("vms", []):
        if vm["pid"]:
            lab.end(vm["pid"])


def kill(hvtx: Program) -> None:
    """End the VM `web` as a crash would."""
    lab.end(hvtx.vm("web")["pid"])


def attach(device: str, flags: int = IFF_TAP | IFF_NO_PI) -> int:
    """Open a tun device as a hypervisor does; the descriptor."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR)
    try:
        fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", device.encode(), flags))
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def link(device: str) -> dict[str, object]:
    """One device as `ip` shows it."""
    found: dict[str, object] = json.loads(lab.run("ip", "-j", "-d", "link", "show", device))[0]
    return found


@contextmanager
def held_at(hvtx: Program, point: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A command that is stopped at a failpoint, and goes on when the block ends."""
    with subprocess.Popen(
        [sys.executable, "-m", "hvtx", *arguments],
        env={**os.environ, **hvtx.environment, "HVTX_FAILPOINT": f"{point}:stop"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        try:
            yield process
        finally:
            process.send_signal(signal.SIGCONT)
            process.communicate(timeout=60)


def intended(kind: str) -> list[tuple[str, int]]:
    """Name and index of the devices that are about to be made."""
    import sqlite3

    path = Path(os.environ["HVTX_STATE_DIR"], "hvtx.db")
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        rows = connection.execute(
            "SELECT key, spec FROM resource WHERE kind = ? AND state = 'intended'", (kind,)
        ).fetchall()
    return [(key, json.loads(spec)["ifindex"]) for key, spec in rows]


# -- names and indexes -----------------------------------------------------------------------------


@pytest.mark.parametrize("taken", ["name", "altname", "index"])
@pytest.mark.parametrize("kind", ["tap", "bridge"])
def test_a_name_or_index_taken_between_intent_and_act(hvtx: Program, kind: str, taken: str) -> None:
    """What somebody else makes in that moment is neither changed nor used: 4, and all is undone."""
    hvtx("vm", "create", "late", "--network", "net", "--", "sleep", "600")
    command = (
        ("vm", "start", "late")
        if kind == "tap"
        else ("network", "create", "other", "--subnet", "10.78.0.0/24")
    )
    with held_at(hvtx, "intended", *command) as process:
        name, index = intended(kind)[0]
        if taken == "name":
            lab.run("ip", "link", "add", name, "type", "bridge")
        elif taken == "index":
            lab.run("ip", "link", "add", "theirs", "index", str(index), "type", "bridge")
        else:
            lab.run("ip", "link", "add", "theirs", "type", "bridge")
            lab.run("ip", "link", "property", "add", "dev", "theirs", "altname", name)
        before = lab.dump()
    assert process.returncode == 4
    assert lab.difference(before, lab.dump()) == ""
    if taken != "altname":  # a device in the place of ours keeps the row on record (protocol.md)
        assert hvtx.reasons(kind, name) == {("skip", "mark-mismatch")}
        lab.run("ip", "link", "del", name if taken == "name" else "theirs")
        hvtx("gc", "--apply")
    assert hvtx.is_clean()


def test_an_alternative_name_is_no_device(hvtx: Program) -> None:
    """Our device is gone, and another has its name among its others: gone is gone."""
    device = hvtx.device("web")
    lab.run("ip", "link", "del", device)
    lab.run("ip", "link", "add", "theirs", "type", "ifb")
    lab.run("ip", "link", "property", "add", "dev", "theirs", "altname", device)
    theirs = link("theirs")
    kill(hvtx)
    assert hvtx.reasons("tap", device) == {("forget", "already-gone")}
    hvtx("gc", "--apply")
    assert hvtx.is_clean()
    assert hvtx.vm("web")["state"] == "defined"
    assert link("theirs") == theirs
    hvtx("vm", "start", "web")


@pytest.mark.parametrize("kind", ["tap", "ifb"])
def test_an_index_that_is_used_again(hvtx: Program, kind: str) -> None:
    """Somebody else's device with the very index of ours: the mark is not on it, so it stays."""
    device, index = hvtx.device("web"), str(link(hvtx.device("web"))["ifindex"])
    lab.run("ip", "link", "del", device)
    if kind == "tap":
        descriptor = os.open("/dev/net/tun", os.O_RDWR)
        fcntl.ioctl(descriptor, 0x400454DA, struct.pack("=I", int(index)))
        fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", b"theirs", IFF_TAP | IFF_NO_PI))
        fcntl.ioctl(descriptor, TUNSETPERSIST, 1)
        os.close(descriptor)
    else:
        lab.run("ip", "link", "add", "theirs", "index", index, "type", "ifb")
    theirs = link("theirs")
    kill(hvtx)
    assert hvtx.reasons("tap", device) == {("skip", "mark-mismatch")}
    hvtx("gc", "--apply")
    assert link("theirs") == theirs
    lab.run("ip", "link", "del", "theirs")
    hvtx("gc", "--apply")
    assert hvtx.is_clean()


@pytest.mark.parametrize("kind", ["tap", "ifb"])
def test_our_mark_on_a_second_device(hvtx: Program, kind: str) -> None:
    """The alias copied to somebody else's device: ours goes, the copy stays."""
    device = hvtx.device("web")
    how = ("tuntap", "add", "copy", "mode", "tap") if kind == "tap" else ("link", "add", "copy", "type", "ifb")  # fmt: skip
    lab.run("ip", *how)
    lab.run("ip", "link", "set", "copy", "alias", str(link(device)["ifalias"]))
    copy = link("copy")
    kill(hvtx)
    assert hvtx.reasons("tap", "copy") == {("skip", "duplicate-mark")}
    assert hvtx.reasons("tap", device) == {("delete", "vm-dead")}
    hvtx("gc", "--apply")
    assert link("copy") == copy
    assert device not in lab.run("ip", "-o", "link")
    hvtx("gc", "--apply", "--unrecorded")  # nor is it "marked, and not on record"
    assert link("copy") == copy


def test_a_device_that_was_moved_away(hvtx: Program) -> None:
    """In another namespace it is lost, and its lease is kept; brought back, it is collected."""
    device = hvtx.device("web")
    away = lab.Namespace()
    try:
        lab.run("ip", "link", "set", device, "netns", str(away.pid))
        assert hvtx.reasons("tap", device) == {("skip", "lost")}
        assert hvtx.reasons("lease") == {("skip", "vm-alive")}
        hvtx("repair", code=9)
        kill(hvtx)
        assert hvtx.reasons("tap", device) == {("forget", "already-gone")}
        hvtx("gc", "--apply")
        assert hvtx.is_clean()
        away.run("ip", "link", "set", device, "netns", str(os.getpid()))
        assert hvtx.reasons("tap", device) == {("delete", "released-leftover")}
        hvtx("gc", "--apply")
        assert device not in lab.run("ip", "-o", "link")
        assert hvtx.is_clean()
    finally:
        away.close()


# -- what others change ------------------------------------------------------------------------------

CHANGES = {
    "down": ("link", "set", "{}", "down"),
    "mtu": ("link", "set", "{}", "mtu", "1280"),
    "mac": ("link", "set", "{}", "address", "02:00:00:00:00:01"),
    "no port": ("link", "set", "{}", "nomaster"),
    "another's port": ("link", "set", "{}", "master", "theirs"),
}


@pytest.mark.parametrize("change", list(CHANGES))
def test_what_others_change_of_a_device(hvtx: Program, change: str) -> None:
    """gc and recover leave it, `doctor` tells, only `repair` puts it back."""
    lab.run("ip", "link", "add", "theirs", "type", "bridge")
    device = hvtx.device("web")
    whole = link(device)
    lab.run("ip", *(word.format(device) for word in CHANGES[change]))
    changed = link(device)
    assert not [key for key in hvtx.plan() if key[0] != "skip"]
    hvtx("gc", "--apply")
    hvtx("recover")
    assert link(device) == changed
    found = hvtx("doctor", "--json", code=1).json()["findings"]
    assert {f["hint"] for f in found if device in f["message"]} == {"hvtx repair"}
    hvtx("repair")
    for part in ("address", "mtu", "master", "flags", "ifalias"):
        assert link(device)[part] == whole[part]
    assert not [f for f in findings(hvtx) if f["check"] == "damage" and f["level"] != "ok"]
    assert hvtx("repair", "--json").json()["repaired"] == []


def findings(hvtx: Program) -> list[dict[str, str]]:
    found: list[dict[str, str]] = hvtx("doctor", "--json", code=None).json()["findings"]
    return found


@pytest.mark.parametrize("change", ["down", "mtu", "mac", "loopback"])
def test_what_others_change_of_a_bridge(hvtx: Program, change: str) -> None:
    """The same for the network's own device, and the setting that leads 127.0.0.1 to guests."""
    setting = Path("/proc/sys/net/ipv4/conf/hvnet/route_localnet")
    whole = link("hvnet")
    if change == "loopback":
        setting.write_text("0")
    else:
        lab.run("ip", *(word.format("hvnet") for word in CHANGES[change]))
    assert not [key for key in hvtx.plan() if key[0] != "skip"]
    assert {f["hint"] for f in findings(hvtx) if "hvnet" in f["message"]} == {"hvtx repair"}
    hvtx("repair")
    assert setting.read_text() == "1\n"
    for part in ("address", "mtu", "flags", "ifalias"):
        assert link("hvnet")[part] == whole[part]
    assert hvtx("repair", "--json").json()["repaired"] == []


def test_neighbours_that_others_entered_stay(hvtx: Program) -> None:
    """To set a MAC address again that is there would take them (neigh_changeaddr)."""
    entry = ("192.0.2.9", "lladdr", "02:00:00:00:00:09", "dev", "hvnet", "nud", "permanent")
    lab.run("ip", "neigh", "replace", *entry)
    lab.run("ip", "link", "set", "hvnet", "mtu", "1280")
    hvtx("repair")
    assert link("hvnet")["mtu"] != 1280
    assert "192.0.2.9" in lab.run("ip", "neigh", "show", "dev", "hvnet", "nud", "permanent")


def test_a_bridge_that_forgot_its_own_address(hvtx: Program) -> None:
    """`bridge fdb flush` without nopermanent: no guest reaches the host, and nothing else shows it."""
    mac = link("hvnet")["address"]

    def own() -> list[str]:
        entries = lab.run("bridge", "fdb", "show", "br", "hvnet").splitlines()
        return [line for line in entries if line.startswith(f"{mac} dev hvnet ")]

    assert own()
    lab.run("bridge", "fdb", "flush", "dev", "hvnet")
    assert not own()
    told = [f for f in findings(hvtx) if "guests did not reach the host" in f["message"]]
    assert [(f["check"], f["hint"]) for f in told] == [("damage", "hvtx repair")]
    hvtx("repair")
    assert own()
    assert hvtx("repair", "--json").json()["repaired"] == []


def test_a_strangers_port_changes_nothing_of_a_bridge(hvtx: Program) -> None:
    """A port with a smaller MTU and the lowest MAC: the bridge keeps its own."""
    before = link("hvnet")
    lab.run("ip", "link", "add", "theirs", "address", "00:00:00:00:00:01", "mtu", "1280", "type", "ifb")  # fmt: skip
    lab.run("ip", "link", "set", "theirs", "master", "hvnet", "up")
    assert (link("hvnet")["address"], link("hvnet")["mtu"]) == (before["address"], before["mtu"])
    lab.run("ip", "link", "del", "theirs")
    assert (link("hvnet")["address"], link("hvnet")["mtu"]) == (before["address"], before["mtu"])


# -- what others put on top --------------------------------------------------------------------------


def xdp(device: str) -> None:
    """Attach an XDP program that lets everything pass: `r0 = 2; exit`."""
    code = (ctypes.c_uint64 * 2)(0x00000002000000B7, 0x95)
    licence = ctypes.create_string_buffer(b"GPL")
    kind, count = 6, 2  # BPF_PROG_TYPE_XDP
    wanted = struct.pack(
        "=IIQQIIQI", kind, count, ctypes.addressof(code), ctypes.addressof(licence), 0, 0, 0, 0
    ).ljust(128, b"\0")
    libc = ctypes.CDLL(None, use_errno=True)
    program = libc.syscall(SYS_BPF, 5, ctypes.c_char_p(wanted), len(wanted))
    assert program >= 0, os.strerror(ctypes.get_errno())
    index = _index(device)
    body = struct.pack("=BxHiII", 0, 0, index, 0, 0)
    body += nested(43, attribute(1, struct.pack("=i", program)))  # IFLA_XDP, IFLA_XDP_FD
    channel = Channel(0)
    try:
        channel.request(NEWLINK, 0, body)
    finally:
        channel.close()
        os.close(program)


def _index(device: str) -> int:
    import socket

    return socket.if_nametoindex(device)


def put(what: str, device: str) -> None:
    """Put something of somebody else's on a device."""
    if what == "xdp":
        xdp(device)
    elif what == "tc":
        # beside the filter that is ours
        theirs = ("bpf", "da", "bytecode", "1,6 0 0 4294967295")
        lab.run("tc", "filter", "add", "dev", device, "ingress", "pref", "7", *theirs)
    elif what == "address":
        lab.run("ip", "addr", "add", "192.0.2.1/32", "dev", device)
    elif what == "vlan":
        words = ("ip", "link", "add", "theirs", "link", device, "type", "vlan", "id", "7")
        if "Unknown device type" in (said := refused(*words)):
            pytest.skip("this kernel has no vlan devices")
        assert said == ""
    else:
        lab.run("ip", "link", "set", device, "nomaster", check=False)
        lab.run("ip", "link", "add", "theirs", "link", device, "type", what)


def refused(*argv: str) -> str:
    """What a program says of why it fails; empty if it does not."""
    return subprocess.run(argv, capture_output=True, text=True, check=False).stderr


@pytest.mark.parametrize("what", ["xdp", "vlan", "macvtap"])
def test_what_stands_on_a_device_keeps_it(hvtx: Program, what: str) -> None:
    """What would go with it: foreign-dependents. (Addresses, tc: test_gc_foreign.py.)"""
    device = hvtx.device("web")
    put(what, device)
    kill(hvtx)
    for name in (device, "hvnet"):
        link(name)  # what is shown of carriers follows now, not a second later
    before = lab.dump()["links"]
    assert hvtx.reasons("tap", device) == {("skip", "foreign-dependents")}
    hvtx("gc", "--apply")
    assert lab.difference(before, lab.dump()["links"]) == ""


@pytest.mark.parametrize("what", ["xdp", "tc", "vlan", "macvlan"])
def test_what_stands_on_a_bridge_keeps_it(hvtx: Program, what: str) -> None:
    """A network is not removed from under others' things, and one half made is kept for them."""
    hvtx("vm", "rm", "--force", "web")
    put(what, "hvnet")
    before = lab.dump()
    assert "hvnet" in hvtx("network", "rm", "net", code=4).err
    assert lab.difference(before, lab.dump()) == ""
    hvtx("network", "create", "half", "--subnet", "10.78.0.0/24", "--bridge", "hvhalf", code=None,
         HVTX_FAILPOINT="acted:filter:kill")  # fmt: skip
    lab.run("ip", "link", "set", "theirs", "name", "other0", check=False)
    put(what, "hvhalf") if what != "address" else lab.run("ip", "addr", "add", "192.0.2.9/32", "dev", "hvhalf")  # fmt: skip
    assert hvtx.reasons("bridge", "hvhalf") == {("skip", "foreign-dependents")}
    hvtx("recover")
    assert link("hvhalf")


@pytest.mark.parametrize("address", ["10.78.0.1/24", "fd78::1/64", "fe80::ff:fe00:1/64"])
def test_an_equal_address_on_our_new_bridge_is_ours(address: str) -> None:
    """As the kernel gives it one where addrgenmode was set back; usable without a carrier."""
    lab.duplicate_detection("1")
    lab.run("ip", "link", "add", "hvnew", "address", "02:00:00:00:00:01", "type", "bridge")
    lab.run("ip", "link", "set", "hvnew", "alias", MARK, "up", "addrgenmode", "none")
    lab.run("ip", "addr", "add", address, "dev", "hvnew", "valid_lft", "900", "preferred_lft", "9")
    spec = {"device": "hvnew", "ifindex": _index("hvnew"), "address": address, "owner": MARK}
    row = Resource(7, Kind.ADDRESS, "it", State.INTENDED, MARK, spec, {}, 1, 1, None, "net")
    driver = AddressDriver(Host("aaaaaaaaaa", "", "", 1.0))
    foreign_object = row._replace(spec={**spec, "owner": MARK + "c"})
    with pytest.raises(Conflict, match="exists already"):
        driver.create([foreign_object])
    driver.create([row])
    [seen] = json.loads(lab.run("ip", "-j", "addr", "show", "dev", "hvnew"))[0]["addr_info"]
    assert f"{seen['local']}/{seen['prefixlen']}" == address
    assert seen["valid_life_time"] == 2**32 - 1
    assert not seen.get("tentative")
    assert seen.get("nodad", False) == (":" in address)


def test_a_secondary_address_keeps_the_primary(hvtx: Program) -> None:
    """Ours is the primary of somebody else's: taking it away would take theirs along."""
    hvtx("network", "create", "half", "--subnet", "10.78.0.0/24", "--bridge", "hvhalf", code=None,
         HVTX_FAILPOINT="acted:address:kill")  # fmt: skip
    Path("/proc/sys/net/ipv4/conf/hvhalf/promote_secondaries").write_text("0")
    lab.run("ip", "addr", "add", "10.78.0.9/24", "dev", "hvhalf")
    assert hvtx.reasons("address", "10.78.0.1/24") == {("skip", "foreign-dependents")}
    spec = {"device": "hvhalf", "ifindex": _index("hvhalf"), "address": "10.78.0.1/24",
            "owner": link("hvhalf")["ifalias"]}  # fmt: skip
    row = Resource(7, Kind.ADDRESS, "it", State.RELEASING, MARK, spec, {}, 1, 1, None, "net")
    driver = AddressDriver(Host("aaaaaaaaaa", "", "", 1.0))
    assert driver.release([row])[7].reason == "foreign-dependents"  # whoever planned what
    hvtx("recover")
    seen = lab.run("ip", "-o", "addr", "show", "hvhalf")
    assert "10.78.0.1/24" in seen
    assert "10.78.0.9/24" in seen
    lab.run("ip", "addr", "del", "10.78.0.9/24", "dev", "hvhalf")
    hvtx("recover")
    assert "hvhalf" not in lab.run("ip", "-o", "link")
    assert hvtx.is_clean()


# -- attaching ---------------------------------------------------------------------------------------


@pytest.fixture
def driver() -> Iterator[TapDriver]:
    """The driver alone, without a store."""
    own = TapDriver(Host("aaaaaaaaaa", "", "", 1.0))
    yield own
    own.detach()
    own.links.close()


def persistent(name: str, flags: int, mark: str = MARK) -> Resource:
    """A persistent device with a mark, and the row that speaks of it."""
    descriptor = attach(name, flags)
    fcntl.ioctl(descriptor, TUNSETPERSIST, 1)
    os.close(descriptor)
    lab.run("ip", "link", "set", name, "alias", mark)
    spec = {"device": name, "ifindex": _index(name)}
    return Resource(7, Kind.TAP, name, State.RELEASING, mark, spec, {}, 1, 1, "vm", None)


@pytest.mark.parametrize(
    "flags",
    [
        IFF_TAP,
        IFF_TAP | IFF_NO_PI,
        IFF_TAP | IFF_NO_PI | IFF_VNET_HDR,
        IFF_TAP | IFF_NO_PI | IFF_MULTI_QUEUE,
        IFF_TUN | IFF_VNET_HDR,
    ],
)
def test_attaching_changes_nothing_of_a_device(driver: TapDriver, flags: int) -> None:
    """Held and let go, a device has the flags that it had: fewer would stay with it for good."""
    row = persistent("hvtest", flags)
    before = link("hvtest")
    until("free", lambda: not driver.attach([row]))
    if not flags & IFF_MULTI_QUEUE:
        with pytest.raises(OSError, match="busy"):
            attach("hvtest", flags)
    driver.detach()
    assert link("hvtest") == before
    until("released", lambda: driver.release([row])[7].gone)
    assert "hvtest" not in lab.run("ip", "-o", "link")


def test_a_second_queue_is_somebodys_use(driver: TapDriver) -> None:
    """A multi-queue device can be attached beside its VM: the number of queues tells."""
    flags = IFF_TAP | IFF_NO_PI | IFF_MULTI_QUEUE
    row = persistent("hvtest", flags)
    descriptor = attach("hvtest", flags)
    lab.run("ip", "link", "set", "hvtest", "addrgenmode", "none")
    lab.run("ip", "link", "set", "hvtest", "up")
    try:
        assert driver.attach([row])[7].reason == "in-use"
        driver.detach()
        assert driver.release([row])[7].reason == "in-use"
        assert "persist on" in lab.run("ip", "-d", "link", "show", "hvtest")
        os.write(descriptor, b"\xff" * 60)  # EBADFD if it had been cut
    finally:
        os.close(descriptor)
    until("released", lambda: driver.release([row])[7].gone)
    assert "hvtest" not in lab.run("ip", "-o", "link")


def test_a_start_waits_for_a_reader_of_its_devices_fdinfo() -> None:
    """A reader has the device a moment longer than the start, which closed it and opens it anew."""
    persistent("hvtest", tun.tap_flags(1))
    ours, others = socket.socketpair()
    until("free", lambda: _opened_and_sent(ours))  # in no process, and yet not closed

    def let_go() -> None:
        time.sleep(0.3)
        ours.close()
        others.close()

    reader = threading.Thread(target=let_go)
    reader.start()
    try:
        found = open_all([PassedDescriptors(TAP, "hvtest")], None)
    finally:
        reader.join()
    with pytest.raises(HostRefused, match="hvtest cannot be opened: Device or resource busy"):
        open_all([PassedDescriptors(TAP, "hvtest")], None)
    close_all(found)


def test_a_start_waits_for_who_asks_its_device_something(monkeypatch: pytest.MonkeyPatch) -> None:
    """hvtx copies a descriptor to ask the device where it is: one look finds that, no second."""
    persistent("hvtest", tun.tap_flags(1))
    copies: list[int] = []

    def opened() -> bool:
        with suppress(OSError):
            copies.append(attach("hvtest", tun.tap_flags(1)))
        return bool(copies)

    until("free", opened)

    def looks(names: set[str]) -> openfiles.Holders:
        found = real(names)
        while copies:
            os.close(copies.pop())
        return found

    real = openfiles.tap_holders
    monkeypatch.setattr(openfiles, "tap_holders", looks)
    close_all(open_all([PassedDescriptors(TAP, "hvtest")], None))


def _opened_and_sent(way: socket.socket) -> bool:
    """A descriptor of the device, on its way through a socket: no process shows it."""
    try:
        descriptor = attach("hvtest", tun.tap_flags(1))
    except OSError:
        return False
    socket.send_fds(way, [b"x"], [descriptor])
    os.close(descriptor)
    return True


def test_a_device_that_goes_between_look_and_attach(hvtx: Program) -> None:
    """Attaching to a name that is gone makes a ghost: it is known as one, and goes again."""
    device = hvtx.device("web")
    kill(hvtx)
    with held_at(hvtx, "seen:tap", "gc", "--apply"):
        lab.run("ip", "link", "del", device)
    assert device not in lab.run("ip", "-o", "link")
    hvtx("gc", "--apply")
    assert hvtx.is_clean()


# -- what the host refuses, or answers too late ------------------------------------------------------


@pytest.mark.parametrize("what", ["the device", "the elements"])
def test_an_acknowledgement_that_is_lost(
    hvtx: Program, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Done, but not heard of: what then stands there with our mark is ours, and is undone."""
    hvtx("vm", "create", "late", "--network", "net", "-p", "9090:90", "--", "sleep", "600")
    owner, name = (Channel, "refusals") if what == "the device" else (Nftables, "batch")
    real, calls = getattr(owner, name), []

    def lossy(*arguments: object) -> object:
        done = real(*arguments)
        calls.append(1)
        if len(calls) == 1:
            raise OSError(errno.ENOBUFS, "no room for the answer")
        return done

    before = witness.things()
    with monkeypatch.context() as patched:
        patched.setattr(owner, name, lossy)
        assert hvtx("vm", "start", "late", code=6).err
    assert lab.difference(before, witness.things()) == ""
    assert hvtx.is_clean()
    hvtx("vm", "start", "late")


def test_a_bridge_that_has_no_port_left(hvtx: Program) -> None:
    """1,023 ports are the kernel's limit: 6, named, and the start leaves nothing."""
    names = [f"port{number}" for number in range(1022)]
    make_ports(names, _index("hvnet"))
    hvtx("vm", "create", "late", "--network", "net", "--", "sleep", "600")
    before = lab.run("ip", "-o", "link")
    refused = hvtx("vm", "start", "late", code=6)
    assert "no port left" in refused.err
    assert sorted(lab.run("ip", "-o", "link")) == sorted(before)
    assert hvtx.is_clean()
    lab.run("ip", "link", "del", "port7")
    hvtx("vm", "start", "late")


def make_ports(names: list[str], bridge: int) -> None:
    """Many dummy ports of a bridge, by few system calls."""
    lines = "".join(f"link add {name} master hvnet type ifb\n" for name in names)
    lab.run("ip", "-batch", "-", stdin=lines, timeout=120)
    assert bridge


def test_no_automatic_address_at_any_moment(hvtx: Program) -> None:
    """No fe80:: of the kernel's own and no tentative address is ever on a device of ours."""
    with subprocess.Popen(
        ["ip", "-6", "-o", "monitor", "address"], stdout=subprocess.PIPE, text=True
    ) as monitor:
        assert monitor.stdout is not None
        for number in range(1, 200):  # until it listens
            lab.run("ip", "addr", "add", f"2001:db8::1:{number:x}/128", "dev", "lo")
            if select.select([monitor.stdout], [], [], 0.1)[0]:
                break
        hvtx("network", "create", "six", "--subnet", "fd78::/64", "--bridge", "hvsix")
        hvtx("vm", "run", "late", "--network", "six", "--", "sleep", "600")
        descriptor = attach(hvtx.device("late"), IFF_TAP | IFF_NO_PI | IFF_VNET_HDR)
        os.close(descriptor)
        lab.run("ip", "addr", "add", "2001:db8::2/128", "dev", "lo")
        os.kill(hvtx.vm("late")["pid"], 0)
        seen = []
        while "2001:db8::2/" not in (line := monitor.stdout.readline()) and line:
            seen.append(line)
        monitor.kill()
    seen = [line for line in seen if " lo " not in line]
    own = json.loads(lab.run("ip", "-j", "-6", "addr", "show", "hvsix"))[0]["addr_info"]
    told = {line.split()[3] for line in seen if "Deleted" not in line}
    assert told == {f"{a['local']}/{a['prefixlen']}" for a in own}
    assert not [line for line in seen if "tentative" in line]


def test_mac_addresses_are_set_and_not_drawn(hvtx: Program) -> None:
    """NET_ADDR_SET (3): what udev's MACAddressPolicy=persistent leaves alone."""
    script = 'mount -t sysfs sysfs /sys && cat "/sys/class/net/$1/addr_assign_type"'
    for device in (hvtx.device("web"), "hvnet"):
        kind = lab.run("unshare", "-m", "sh", "-c", script, "sh", device)
        assert kind == "3\n", device


def test_udev_may_give_a_new_device_another_address_and_does_not_keep_it() -> None:
    """It looked before ours was set, and writes after (E25): by the end of the start ours stands."""
    hvtx = Program()
    hvtx("network", "create", "net", "--subnet", "10.77.0.0/24")
    hvtx("vm", "create", "web", "--network", "net", "--", "sleep", "600")
    run = stopped(hvtx, "spawned", "vm", "start", "web")
    device = hvtx.device("web")
    lab.run("ip", "link", "set", device, "address", "3a:f6:9a:de:d8:fd")
    ended(run, signal.SIGCONT)
    assert run.returncode == 0
    shown = json.loads(lab.run("ip", "-j", "link", "show", device))[0]
    assert shown["address"].startswith("fe:")
    assert hvtx("repair", "--json").json()["repaired"] == []
    hvtx("vm", "rm", "web", "--force")
