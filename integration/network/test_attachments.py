"""Attachments: interfaces of containers, made and removed on the real kernel."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from hvtx import Conflict, Host, HostRefused, HvtxError, NotFound, PartialFailure, UsageError
from hvtx.cni.runtime_config import limits
from hvtx.host import network_namespace, nsid
from hvtx.model.attachment import Attached, AttachmentKey, AttachmentRequest, PodLabels, TapRequest
from hvtx.model.policy import Limits
from hvtx.model.vm import Publish
from integration import lab
from integration.lab import witness
from integration.lab.program import Program
from integration.lab.waiting import until

SUBNETS = ("10.88.0.0/24", "fd88::/64")
KEY = AttachmentKey("podnet", "c0ffee", "eth0")
POD = PodLabels("web-0", "default", "uid-1")

BOTH = pytest.mark.parametrize("host", ["nftables", "iptables"], indirect=True)


@pytest.fixture
def host(request: pytest.FixtureRequest, netns: None) -> Iterator[Host]:
    """The library on a backend."""
    with Host(firewall=getattr(request, "param", "nftables"), lock_timeout=30) as made:
        yield made


@pytest.fixture
def box(netns: None) -> Iterator[lab.Namespace]:
    """A container's network namespace."""
    made = lab.Namespace()
    yield made
    made.close()


@pytest.fixture
def later(netns: None) -> Iterator[lab.Namespace]:
    """The namespace of a container that comes later."""
    made = lab.Namespace()
    yield made
    made.close()


def path_of(box: lab.Namespace) -> str:
    return f"/proc/{box.pid}/ns/net"


def request_for(box: lab.Namespace, key: AttachmentKey = KEY, **more: Any) -> AttachmentRequest:
    wanted = AttachmentRequest(key, "pods", path_of(box), subnets=SUBNETS, pod=POD)
    return wanted._replace(**more)


def add(host: Host, box: lab.Namespace, key: AttachmentKey = KEY, **more: Any) -> Attached:
    return host.attachments.add(request_for(box, key, **more))


def links(box: lab.Namespace | None = None) -> dict[str, dict[str, Any]]:
    told = box.run("ip", "-j", "addr") if box else lab.run("ip", "-j", "-d", "addr")
    return {link["ifname"]: link for link in json.loads(told)}


def addresses(link: dict[str, Any]) -> set[str]:
    return {f"{a['local']}/{a['prefixlen']}" for a in link["addr_info"] if a["scope"] == "global"}


def gone(box: lab.Namespace, host_device: str) -> None:
    """End a namespace, and wait until the kernel has."""
    box.close()
    until(f"the end of {host_device}", lambda: host_device not in links())


SENT = 1 << 20
BURST = 0.2  # seconds of its rate that a limit lets pass at once
SEGMENT = (
    1 << 16
)  # bytes of one frame that the card cuts up (TSO); its end may go beyond the bucket's
# refused by nobody but the host itself: it was reached
ASK = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], 9), 5)
except ConnectionRefusedError:
    print("reached")
"""
SERVE = """
import socket, sys
with socket.create_server(("", int(sys.argv[1]))) as server:
    print("ready", flush=True)
    with server.accept()[0] as client:
        client.sendall(bytes(int(sys.argv[2])))
"""


def reaches(box: lab.Namespace, address: str) -> bool:
    return box.run(sys.executable, "-c", ASK, address, check=False).strip() == "reached"


def served(box: lab.Namespace, address: str, port: int, inside: int) -> int:
    """How many bytes of a server in a container come through a host port: whole segments of TSO."""
    return fetched(box, address, port, inside)[0]


def fetched(box: lab.Namespace, address: str, port: int, inside: int) -> tuple[int, float]:
    """The same, and how many seconds that took once the server was there."""
    argv = box.argv(sys.executable, "-c", SERVE, str(inside), str(SENT))
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == b"ready\n"
            begun = time.monotonic()
            with socket.create_connection((address, port), 30) as client:
                client.settimeout(30)
                count = sum(map(len, iter(lambda: client.recv(1 << 16), b"")))
            return count, time.monotonic() - begun
        finally:
            server.kill()


SINK = """
import socket
with socket.create_server(("", 80)) as server:
    print("ready", flush=True)
    with server.accept()[0] as client:
        while client.recv(1 << 16):
            pass
        client.sendall(b".")
"""


def seconds_into(box: lab.Namespace, address: str) -> float:
    """How long as many bytes as `served` tells of take into a container."""
    with subprocess.Popen(box.argv(sys.executable, "-c", SINK), stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == b"ready\n"
            begun = time.monotonic()
            with socket.create_connection((address, 80), 30) as client:
                client.settimeout(30)
                client.sendall(bytes(SENT))
                client.shutdown(socket.SHUT_WR)
                assert client.recv(1) == b"."
            return time.monotonic() - begun
        finally:
            server.kill()


def vms(host: Host) -> list[str]:
    return [shown.vm.name for shown in host.vm.ls()]


@BOTH
def test_what_is_added_is_deleted_and_nothing_else(host: Host, box: lab.Namespace) -> None:
    """ADD makes the interface as it tells it; DEL leaves host and namespace as they were."""
    host.network.create("pods", SUBNETS)
    before, inside = lab.dump(), links(box)
    made = add(host, box, publish=(Publish("tcp", None, 8080, 80),), limits=Limits())
    peer = links(box)["eth0"]
    assert peer["address"] == made.mac
    assert peer["mtu"] == made.mtu == 1500
    assert addresses(peer) == {a.address for a in made.addresses}
    assert {a.gateway for a in made.addresses} == {"10.88.0.1", "fd88::1"}
    end = links()[made.host_device]
    assert (end["address"], end["master"], end["group"]) == (
        made.host_mac,
        made.bridge,
        "1752593528",
    )
    assert end["linkinfo"]["info_kind"] == "veth"
    alias = json.loads(lab.run("ip", "-j", "link", "show", made.host_device))[0]["ifalias"]
    assert json.loads(box.run("ip", "-j", "link", "show", "eth0"))[0]["ifalias"] == alias
    assert reaches(box, "10.88.0.1")
    assert reaches(box, "fd88::1")
    assert served(box, "127.0.0.1", 8080, 80) == SENT
    [shown] = host.vm.ls()
    assert (shown.vm.name, shown.state, shown.vm.hypervisor) == (made.vm, "running", "cni")
    assert host.gc.plan().plan.acting() == []
    host.attachments.delete(KEY)
    assert vms(host) == []
    assert links(box).keys() == inside.keys()
    assert not lab.difference(before, lab.dump())
    host.attachments.delete(KEY)
    assert not lab.difference(before, lab.dump())


def test_the_first_add_makes_the_network(host: Host, box: lab.Namespace) -> None:
    with pytest.raises(NotFound) as refused:
        add(host, box, subnets=())
    assert "hvtx network create pods" in (refused.value.hint or "")
    made = add(host, box)
    assert [a.address for a in made.addresses] == ["10.88.0.2/24", "fd88::2/64"]
    with pytest.raises(Conflict, match="declares"):
        add(host, box, AttachmentKey("podnet", "other", "eth1"), subnets=("10.89.0.0/24",))
    host.attachments.delete(KEY)
    assert host.network.names() == ["pods"]


ANOTHER: list[tuple[dict[str, Any], str, str]] = [
    ({"isolate": True}, '"isolate": false', "hvtx network set pods --isolate"),
    ({"nat": False}, '"nat": true', "hvtx network rm pods"),
    ({"mtu": 1400}, '"mtu": 1500', "hvtx network rm pods"),
    ({"subnets": ("10.89.0.0/24",)}, "10.88.0.0/24", "hvtx network rm pods"),
]


@pytest.mark.parametrize("subnets", [SUBNETS, ()], ids=["declared", "on record"])
@pytest.mark.parametrize(("declared", "has", "mend"), ANOTHER, ids=str)
def test_a_network_that_is_another_than_declared_is_refused(
    host: Host, box: lab.Namespace, subnets: Any, declared: dict[str, Any], has: str, mend: str
) -> None:
    """What is said of it is not taken for done; what it is may be said, and STATUS says the same."""
    host.network.create("pods", SUBNETS)
    before, inside = lab.dump(), links(box)
    wanted = {"subnets": subnets, **declared}
    for ask in (
        lambda: add(host, box, **wanted),
        lambda: host.attachments.status("pods", **wanted),
    ):
        with pytest.raises(Conflict, match="declares") as refused:
            ask()
        assert has in refused.value.message
        assert mend in (refused.value.hint or "")
    assert not lab.difference(before, lab.dump())
    assert links(box) == inside
    same: dict[str, Any] = {"isolate": False, "nat": True, "mtu": 1500}
    host.attachments.status("pods", subnets or None, **same)
    add(host, box, subnets=subnets, **same)


def test_default_is_made_as_it_is_declared(host: Host, box: lab.Namespace) -> None:
    """Without subnets, too: what STATUS has nothing against, ADD makes."""
    key, wanted = AttachmentKey("default", "c0ffee", "eth0"), {"isolate": True, "mtu": 1400}
    host.attachments.status("default", (), 1400, isolate=True)
    made = add(host, box, key, bridge_network="default", subnets=(), **wanted)
    there = host.network.show("default")
    assert (there.isolate, there.nat, there.mtu) == (True, True, 1400)
    with pytest.raises(Conflict, match="declares"):
        host.attachments.status("default", (), isolate=False)
    assert made.addresses


def test_a_second_add_of_a_living_attachment_is_refused(host: Host, box: lab.Namespace) -> None:
    made = add(host, box)
    before = lab.dump()
    with pytest.raises(Conflict) as refused:
        add(host, box)
    assert f"hvtx vm rm {made.vm} --force" in (refused.value.hint or "")
    assert not lab.difference(before, lab.dump())


def test_a_second_add_of_a_dead_one_releases_it(host: Host, box: lab.Namespace) -> None:
    made = add(host, box)
    gone(box, made.host_device)
    other = lab.Namespace()
    try:
        again = add(host, other)
        assert again.addresses == made.addresses
        assert again.vm == made.vm
        assert host.gc.plan().plan.acting() == []
    finally:
        other.close()


def test_a_namespace_that_has_gone_proves_death(host: Host, box: lab.Namespace) -> None:
    """gc takes what is left of it, leases and all; while anything holds the namespace, nothing."""
    host.network.create("pods", SUBNETS)
    before = lab.dump()
    made = add(host, box, publish=(Publish("tcp", None, 8080, 80),))
    held = os.open(path_of(box), os.O_RDONLY)
    box.close()
    time.sleep(0.05)
    assert host.gc.plan().plan.acting() == []
    assert host.vm.show(made.vm).state == "running"
    os.close(held)
    gone(box, made.host_device)
    assert host.vm.show(made.vm).state == "crashed"
    items = host.gc.plan().plan.acting()
    assert {item.reason.value for item in items} <= {"vm-dead", "already-gone"}
    assert {item.kind for item in items} >= {"netns", "veth", "filter", "lease", "publish"}
    host.gc.apply()
    assert vms(host) == []
    assert host.gc.plan().plan.acting() == []
    assert not lab.difference(before, lab.dump())


def numbered(box: lab.Namespace) -> int:
    """The id that the kernel gives a namespace by itself, where somebody lists a pair into it."""
    lab.run("ip", "link", "add", "theirs", "type", "veth", "peer", "x", "netns", str(box.pid))
    lab.run("ip", "link", "show", "theirs")
    lab.run("ip", "link", "del", "theirs")
    with nsid.ids() as ids, network_namespace.opened(path_of(box)) as namespace:
        number = ids.of(namespace)
    assert number is not None
    return number


def test_an_id_that_the_kernel_gives_again_proves_no_life(
    host: Host, box: lab.Namespace, later: lab.Namespace
) -> None:
    """The next container that lives has the id of the one before: that one is dead all the same."""
    host.network.create("pods", SUBNETS)
    before = lab.dump()
    number = numbered(box)
    made = add(host, box)
    gone(box, made.host_device)
    assert numbered(later) == number
    assert host.vm.show(made.vm).state == "crashed"
    assert {vm.vm.name: vm.state.value for vm in host.vm.ls()} == {made.vm: "crashed"}
    assert "another one has the id" in str(host.explain(KEY.container).evidence)
    after = add(host, later, KEY._replace(container="later"))
    host.gc.apply()
    assert vms(host) == [after.vm]
    assert host.vm.show(after.vm).state == "running"
    host.attachments.delete(KEY._replace(container="later"))
    assert not lab.difference(before, lab.dump())


def test_who_lost_its_interface_lives_by_the_id_that_it_has(host: Host, box: lab.Namespace) -> None:
    """Another owner's GC took it: it is looked for who has the id, and it is the one on record."""
    numbered(box)
    made = add(host, box)
    lab.run("ip", "link", "del", made.host_device)
    assert host.vm.show(made.vm).state == "running"
    assert host.gc.plan().plan.acting() == []


def test_whose_id_it_is_may_not_be_found(
    host: Host, box: lab.Namespace, later: lab.Namespace
) -> None:
    """Held by a descriptor alone, it has no path: the dead one stays, till the id is free."""
    number = numbered(box)
    made = add(host, box)
    gone(box, made.host_device)
    assert numbered(later) == number
    held = os.open(path_of(later), os.O_RDONLY)
    later.close()
    assert host.vm.show(made.vm).state == "running"
    assert host.gc.plan().plan.acting() == []
    os.close(held)
    until("the namespace's end", lambda: host.vm.show(made.vm).state != "running")
    host.gc.apply()
    assert vms(host) == []


def test_a_list_tells_each_attachment_by_its_own_namespace(host: Host, box: lab.Namespace) -> None:
    """One whose namespace has gone is crashed, as `vm show` has it, and the others run."""
    host.network.create("pods", SUBNETS)
    made = add(host, box)
    other = lab.Namespace()
    try:
        living = add(host, other, KEY._replace(container="other"))
        gone(box, made.host_device)
        states = {vm.vm.name: vm.state.value for vm in host.vm.ls()}
        assert states == {made.vm: "crashed", living.vm: "running"}
    finally:
        other.close()


@pytest.mark.parametrize("by", ["an address of others", "another alias"])
def test_an_address_stays_leased_while_its_interface_is_there(
    host: Host, box: lab.Namespace, by: str
) -> None:
    """What a DEL had to leave has its address still: nobody else gets it, gc or not."""
    made, other = add(host, box), lab.Namespace()
    device = made.host_device
    alias = json.loads(lab.run("ip", "-j", "link", "show", device))[0]["ifalias"]
    try:
        if by == "another alias":
            lab.run("ip", "link", "set", device, "alias", "x")
        else:
            lab.run("ip", "addr", "add", "203.0.113.9/32", "dev", device)
        with pytest.raises(PartialFailure):
            host.attachments.delete(KEY)
        host.gc.apply()
        assert addresses(links(box)["eth0"]) == {a.address for a in made.addresses}
        second = add(host, other, AttachmentKey("podnet", "other", "eth0"))
        assert not set(second.addresses) & set(made.addresses)
        lab.run("ip", "link", "set", device, "alias", alias)
        lab.run("ip", "addr", "flush", "dev", device, "scope", "global")
        host.gc.apply()
        assert device not in links()
        assert vms(host) == [second.vm]
    finally:
        other.close()


@pytest.mark.parametrize("limited", ["ingressRate", "egressRate"])
def test_bandwidth_holds_the_way_that_it_names(
    host: Host, box: lab.Namespace, limited: str
) -> None:
    """As runtimes write it: bits a second, ``ingress`` into the container. The other way is free."""
    rate = 2_000_000  # four seconds of it, beside which no pause of a busy machine counts
    made = add(host, box, limits=limits({"bandwidth": {limited: rate}}))
    address = made.addresses[0].address.partition("/")[0]
    into = seconds_into(box, address)
    count, out = fetched(box, address, 80, 80)
    assert count == SENT
    slow, free = (into, out) if limited == "ingressRate" else (out, into)
    assert slow > (SENT - SEGMENT) * 8 / rate - BURST
    assert free < slow / 2


@pytest.mark.parametrize("to", ["another", "the host's"])
def test_an_interface_that_was_moved_is_cut_off_by_its_del_alone(
    host: Host, box: lab.Namespace, to: str
) -> None:
    """Its namespace is gone, and a pair that is there all the same has a peer that lives."""
    made, other = add(host, box), lab.Namespace()
    try:
        target = str(other.pid) if to == "another" else str(os.getpid())
        box.run("ip", "link", "set", "eth0", "netns", target)
        before = lab.dump()
        box.close()
        until("the namespace's end", lambda: host.vm.show(made.vm).state != "running")
        assert host.vm.show(made.vm).state == "unknown"
        host.gc.apply()
        [kept] = host.attachments.collect(KEY.network, []).kept
        assert (kept.key, kept.reason) == (KEY, "liveness-unknown")
        assert not lab.difference(before, lab.dump())
        host.attachments.delete(KEY)
        assert made.host_device not in links()
        assert vms(host) == []
    finally:
        other.close()


def test_an_add_that_the_host_refuses_leaves_nothing(host: Host, box: lab.Namespace) -> None:
    host.network.create("pods", SUBNETS)
    box.run("ip", "link", "add", "eth0", "type", "bridge")
    before, inside = lab.dump(), links(box)
    with pytest.raises(Conflict, match="has an interface eth0 already"):
        add(host, box)
    assert not lab.difference(before, lab.dump())
    assert links(box) == inside
    assert vms(host) == []


@pytest.mark.parametrize(
    "path", ["/nowhere", "/etc/passwd", "/dev/null", "/proc/self/ns/pid", "/tmp"]
)
def test_what_is_no_network_namespace_is_refused(host: Host, box: lab.Namespace, path: str) -> None:
    host.network.create("pods", SUBNETS)
    before = lab.dump()
    with pytest.raises(NotFound, match="network namespace"):
        add(host, box, netns=path)
    assert not lab.difference(before, lab.dump())
    assert vms(host) == []


@pytest.mark.parametrize(
    "more",
    [
        {"addresses": ("10.99.0.1",)},
        {"addresses": ("10.88.0.1",)},  # the gateway's
        {"addresses": ("fd88::2", "fd99::1")},
        {"mac": "01:00:00:00:00:01"},
    ],
)
def test_no_network_is_made_for_what_cannot_be(
    host: Host, box: lab.Namespace, more: dict[str, Any]
) -> None:
    before = lab.dump()
    with pytest.raises(UsageError):
        add(host, box, **more)
    assert host.network.names() == []
    assert not lab.difference(before, lab.dump())


@pytest.mark.parametrize("path", ["/proc/self/ns/net", "/proc/thread-self/ns/net"])
def test_the_own_namespace_is_refused(
    host: Host, box: lab.Namespace, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before a pair is made: a guest's address on the host would draw what is for its guests."""
    host.network.create("pods", SUBNETS)
    made: list[object] = []
    monkeypatch.setattr("hvtx.drivers.tap.veth.veth.create", made.append)
    before = lab.dump()
    with pytest.raises(UsageError, match="is the network namespace that hvtx works in"):
        add(host, box, netns=path)
    assert made == []
    assert not lab.difference(before, lab.dump())
    assert vms(host) == []


def test_the_calling_thread_stays_where_it_is(host: Host, box: lab.Namespace) -> None:
    here = os.stat("/proc/thread-self/ns/net").st_ino
    add(host, box)
    assert os.stat("/proc/thread-self/ns/net").st_ino == here
    with contextlib.suppress(NotFound):
        host.attachments.delete(KEY)


def test_check_names_what_is_missing_and_the_command(host: Host, box: lab.Namespace) -> None:
    request = request_for(box)
    assert [m.what for m in host.attachments.check(request)] == [
        "interface eth0 of container c0ffee is not attached"
    ]
    made = add(host, box)
    assert host.attachments.check(request) == ()
    assert host.attachments.show(KEY) == made
    box.run("ip", "addr", "del", "10.88.0.2/24", "dev", "eth0")
    lab.run("ip", "link", "set", made.host_device, "nomaster")
    lab.run("nft", "flush", "ruleset")
    found = dict(host.attachments.check(request))
    told = " ".join(found)
    assert f"eth0 in {request.netns} has lost 10.88.0.2/24" in found
    assert f"veth {made.host_device}: it was not a port of" in told
    assert f"filter {made.host_device}: it was gone" in told
    assert set(found.values()) == {
        "hvtx repair",
        f"hvtx vm rm {made.vm} --force; then the runtime has to ADD it again",
    }
    assert f"{request.netns} has no default route by 10.88.0.1" in found  # it goes with the address
    box.run("ip", "addr", "add", "10.88.0.2/24", "dev", "eth0")
    box.run("ip", "route", "add", "default", "via", "10.88.0.1")
    host.repair()
    assert host.attachments.check(request) == ()
    box.run("ip", "route", "del", "default")
    box.run("ip", "-6", "route", "del", "default")
    box.run("ip", "-6", "route", "add", "unreachable", "default")
    assert [missing.what for missing in host.attachments.check(request)] == [
        f"{request.netns} has no default route by {gateway}" for gateway in ("10.88.0.1", "fd88::1")
    ]
    box.run("ip", "link", "add", "name", "later", "type", "bridge")
    box.run("ip", "link", "set", "later", "up")
    box.run("ip", "route", "add", "default", "dev", "later")  # a later plugin's own
    box.run("ip", "-6", "route", "del", "unreachable", "default")
    box.run("ip", "-6", "route", "add", "default", "via", "fd88::1", "dev", "eth0")
    assert host.attachments.check(request) == ()
    other = lab.Namespace()
    try:
        [missing] = host.attachments.check(request_for(other))
        assert "another network namespace" in missing.what
    finally:
        other.close()


def test_gc_takes_what_is_unlisted_and_dead(host: Host, box: lab.Namespace) -> None:
    """Whatever list arrives: a living namespace keeps its interface, a listed one waits for DEL."""
    boxes = [lab.Namespace() for _ in range(3)]
    keys = [AttachmentKey("podnet", f"c{number}", "eth0") for number in range(3)]
    living = add(host, box)
    made = [add(host, *pair) for pair in zip(boxes, keys, strict=True)]
    foreign = AttachmentKey("othernet", "c3", "eth0")
    fourth = lab.Namespace()
    made.append(add(host, fourth, foreign))
    for one, attached in zip([*boxes, fourth], made, strict=True):
        gone(one, attached.host_device)
    done = host.attachments.collect("podnet", [("c0", "eth0"), ("c1", "eth1")])
    assert set(done.removed) == {keys[1], keys[2]}
    assert [(kept.key, kept.reason, kept.message) for kept in done.kept] == [
        (KEY, "vm-alive", "its network namespace lives")
    ]
    assert set(vms(host)) == {living.vm, made[0].vm, made[3].vm}
    assert living.host_device in links()
    again = host.attachments.collect("podnet", [])
    assert again.removed == (keys[0],)
    assert [kept.key for kept in again.kept] == [KEY]
    host.attachments.delete(foreign)
    assert vms(host) == [living.vm]


def test_status_tells_what_an_add_would_meet(host: Host, box: lab.Namespace) -> None:
    host.attachments.status("pods")
    with pytest.raises(UsageError, match="host bits"):
        host.attachments.status("pods", ["10.88.0.1/30"])
    host.network.create("pods", ["10.88.0.0/30"])
    host.attachments.status("pods")
    add(host, box, subnets=())
    with pytest.raises(Conflict, match="no free address left"):
        host.attachments.status("pods")
    host.attachments.delete(KEY)
    lab.run("nft", "flush", "ruleset")
    with pytest.raises(HostRefused) as refused:
        host.attachments.status("pods")
    assert (refused.value.code, refused.value.hint) == (
        "network-damaged", "hvtx repair puts it back",
    )  # fmt: skip
    host.repair()
    host.attachments.status("pods")
    bridge = host.network.show("pods").bridge
    lab.run("ip", "addr", "delete", "10.88.0.1/30", "dev", bridge)
    with pytest.raises(HostRefused, match=r"its address 10\.88\.0\.1/30 is gone") as refused:
        host.attachments.status("pods")
    assert refused.value.code == "network-damaged"
    host.repair()
    host.attachments.status("pods")


def test_a_person_changes_an_attachment_by_its_end_alone(host: Host, box: lab.Namespace) -> None:
    made = add(host, box)
    before = lab.dump()
    for call in (
        lambda: host.vm.start(made.vm),
        lambda: host.vm.stop(made.vm),
        lambda: host.vm.stop(made.vm, force=True),
        lambda: host.vm.restart(made.vm),
        lambda: host.vm.set(made.vm, memory=64),
        lambda: host.vm.attach(made.vm, box.pid),
    ):
        with pytest.raises(Conflict) as refused:
            call()
        assert f"hvtx vm rm {made.vm} --force" in (refused.value.hint or "")
    assert list(host.vm.stop_each([made.vm, made.vm]).failed) == [made.vm]
    assert not lab.difference(before, lab.dump())
    host.vm.rm(made.vm, force=True)
    assert vms(host) == []
    assert made.host_device not in links()
    assert "eth0" not in links(box)


def test_what_is_asked_as_of_a_vm_leads_nobody_to_what_is_refused(
    host: Host, box: lab.Namespace
) -> None:
    """No hint names a command that an attachment refuses; a removed one is its runtime's to make."""
    made = add(host, box)
    before = lab.dump()
    for call in (
        lambda: host.vm.logs(made.vm),
        lambda: host.vm.console(made.vm),
        lambda: host.network.set("pods", isolate=True),
    ):
        with pytest.raises((Conflict, NotFound)) as refused:
            call()
        assert "hvtx vm start" not in (refused.value.hint or "")
        assert "hvtx vm stop" not in (refused.value.hint or "")
    assert refused.value.hint == (
        f"release the container's interface first: hvtx vm rm {made.vm} --force"
    )
    assert not lab.difference(before, lab.dump())
    host.attachments.delete(KEY)
    with pytest.raises(Conflict, match="only its runtime makes"):
        host.vm.create_from_log(made.vm)
    assert vms(host) == []


@pytest.mark.parametrize(
    ("more", "path"),
    [
        ({}, "/run/netns/none"), ({"bridge_network": "absent", "subnets": ()}, None),
        ({"subnets": ("127.0.0.0/24",)}, None), ({"addresses": ("10.1.2.3",)}, None),
        ({"mac": "01:00:00:00:00:01"}, None), ({"publish": (Publish("tcp", None, 8080, 80),)}, None),
    ],
)  # fmt: skip
def test_an_add_that_is_refused_makes_no_store(
    host: Host, box: lab.Namespace, more: dict[str, Any], path: str | None
) -> None:
    asked = request_for(box, **more)
    with socket.socket() as taken, witness.unchanged():
        taken.bind(("", 8080))
        taken.listen()
        with pytest.raises(HvtxError):
            host.attachments.add(asked if path is None else asked._replace(netns=path))
    for name in ("HVTX_STATE_DIR", "HVTX_RUN_DIR"):
        assert not os.path.exists(os.environ[name]), name


@pytest.mark.parametrize("asked", ["c0ffee", "web-0", "default/web-0", "uid-1"])
def test_explain_knows_a_container_and_its_pod(host: Host, box: lab.Namespace, asked: str) -> None:
    made = add(host, box)
    told = host.explain(asked)
    assert (told.owner, told.vm) == ("hvtx", made.vm)
    assert "eth0 of container c0ffee (pod default/web-0)" in str(told)
    assert host.explain(made.host_device).vm == made.vm
    for one in (asked, made.host_device):
        why = host.explain(one).why
        assert f"`hvtx vm rm {made.vm} --force`" in why
        assert "vm stop" not in why


def test_explain_takes_an_id_as_runtimes_print_it(
    host: Host, box: lab.Namespace, later: lab.Namespace
) -> None:
    ids = ["0123456789ab" + letter * 52 for letter in "cd"]
    made = [
        add(host, space, KEY._replace(container=one))
        for space, one in zip((box, later), ids, strict=True)
    ]
    for own, one in zip(made, ids, strict=True):
        assert [host.explain(one[:n]).vm for n in (13, 40, 64)] == [own.vm] * 3
    with pytest.raises(Conflict) as several:
        host.explain("0123456789ab")
    assert ", ".join(ids) in several.value.message
    assert several.value.hint is not None
    assert several.value.hint.endswith(f"hvtx explain {ids[0]}")
    host.attachments.delete(KEY._replace(container=ids[1]))
    assert host.explain("0123456789ab").vm == made[0].vm
    for beginning in ("0123456789a", "123456789abc"):
        with pytest.raises(NotFound):
            host.explain(beginning)


def test_what_has_ended_of_a_container_is_its_namespace(host: Host, box: lab.Namespace) -> None:
    gone(box, add(host, box).host_device)
    told = str(host.explain(KEY.container))
    assert "whose network namespace is gone" in told
    assert "process" not in told


FRAMES = r"""
import fcntl, os, select, struct, sys, time
tap = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(tap, 0x400454CA, struct.pack("16sH22x", sys.argv[1].encode(), 0x5002))
mac, own, gateway = bytes.fromhex(sys.argv[2]), *(bytes(map(int, a.split("."))) for a in sys.argv[3:])
arp = struct.pack("!HHBBH", 1, 0x800, 6, 4, 1) + mac + own + bytes(6) + gateway
end = time.monotonic() + 20
while time.monotonic() < end:
    os.write(tap, bytes(10) + b"\xff" * 6 + mac + b"\x08\x06" + arp)
    if not select.select([tap], [], [], 0.2)[0]:
        continue
    frame = os.read(tap, 2000)[10:]
    if frame[12:14] == b"\x08\x06" and frame[20:22] == b"\0\2" and frame[28:32] == gateway:
        print(frame[22:28].hex(":"))
        break
"""


HOLD = r"""
import fcntl, os, struct, sys
tap = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(tap, 0x400454CA, struct.pack("16sH22x", sys.argv[1].encode(), 0x5002))
print("holds", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def held(box: lab.Namespace, name: str) -> Iterator[None]:
    """A TAP device in a container, open in another process."""
    process = subprocess.Popen(
        box.argv(sys.executable, "-c", HOLD, name),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "holds\n"
    try:
        yield
    finally:
        process.communicate()


def test_an_address_that_a_vm_in_a_pod_would_ask_for_in_vain_is_refused(
    host: Host, box: lab.Namespace
) -> None:
    """DHCPv6 gives the first /64 alone; a container is given any with its interface."""
    host.network.create("pods", ["fd77::/48"], dhcp=True)
    far: dict[str, Any] = {"subnets": ("fd77::/48",), "addresses": ("fd77:0:0:5::9",)}
    with pytest.raises(UsageError, match="cannot be given by DHCPv6"):
        add(host, box, tap=TapRequest("tap0"), **far)
    assert set(links(box)) == {"lo"}
    assert add(host, box, **far).addresses[0].address == "fd77:0:0:5::9/48"


def test_a_tap_beside_the_interface_is_the_same_wire(host: Host, box: lab.Namespace) -> None:
    """A VM in the namespace has the container's MAC and address, by the TAP that ADD tells."""
    made = add(host, box, tap=TapRequest("tap0", 4711, 4712))
    assert made.tap == "tap0"
    tap = json.loads(box.run("ip", "-d", "-j", "link", "show", "tap0"))[0]
    assert (tap["linkinfo"]["info_data"]["user"], tap["mtu"]) == (4711, 1500)
    assert tap["address"] == made.tap_mac
    assert tap["linkinfo"]["info_data"]["group"] == 4712
    address = made.addresses[0].address.partition("/")[0]
    asked = (sys.executable, "-c", FRAMES, "tap0", made.mac.replace(":", ""), address, "10.88.0.1")
    assert box.run(*asked).strip() == made.bridge_mac
    stranger = (*asked[:5], "10.88.0.9", "10.88.0.1")
    assert box.run("timeout", "2", *stranger, check=False).strip() == ""
    host.attachments.delete(KEY)
    assert set(links(box)) == {"lo"}
    add(host, box, tap=TapRequest("tap0"))
    with held(box, "tap0"):
        host.attachments.delete(KEY)
        assert set(links(box)) == {"lo", "tap0"}
    again = add(host, box, tap=TapRequest("tap0"))  # what the second left is made anew
    assert again.tap == "tap0"
    assert box.run(*asked[:4], again.mac.replace(":", ""), address, "10.88.0.1").strip()
    box.run("ip", "link", "set", "tap0", "alias", "another's")
    host.attachments.delete(KEY)
    inside = links(box)
    with pytest.raises(Conflict, match="has an interface tap0 already"):
        add(host, box, tap=TapRequest("tap0"))
    assert links(box) == inside
    assert add(host, box, tap=TapRequest()).tap in links(box)


@contextlib.contextmanager
def stopped_del(container: str) -> Iterator[None]:
    """Inside, another's DEL stands still where the pair is gone and its port's row is releasing."""
    argv = [sys.executable, "-m", "tests.machine.attachment_verbs", "del", container]
    with subprocess.Popen(argv, env=os.environ | {"HVTX_FAILPOINT": "released:veth:stop"}) as going:
        stat = Path(f"/proc/{going.pid}/stat")
        until("DEL, stopped", lambda: stat.read_text().rpartition(")")[2].split()[0] == "T")
        try:
            yield
        finally:
            going.send_signal(signal.SIGCONT)
    assert going.returncode == 0


def test_check_fails_for_nothing_that_hurts_no_container(
    host: Host, box: lab.Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CRI-O and Nomad end a container whose CHECK fails; a person is told all the same."""
    told: list[str] = []
    add(host, box)
    bridge = host.network.show("pods").bridge
    lab.run("ip", "route", "del", "broadcast", "10.88.0.255", "dev", bridge, "table", "local")
    lab.run("sysctl", "-qw", f"net.ipv4.conf.{bridge}.route_localnet=1")
    with Host(notices=lambda _, words: told.append(words)) as heard:
        assert heard.attachments.check(request_for(box)) == ()
    assert len(told) == 2
    assert any("10.88.0.255" in words and words.endswith("; hvtx repair") for words in told)
    assert any("(route_localnet); hvtx repair" in words for words in told)
    host.repair()
    with Host(notices=lambda _, words: told.append(words)) as heard:
        assert heard.attachments.check(request_for(box)) == ()
    assert len(told) == 2


@pytest.mark.parametrize("host", ["iptables"], indirect=True)
def test_a_rule_that_stands_there_twice_fails_no_check(host: Host, box: lab.Namespace) -> None:
    add(host, box)
    saved = lab.run("iptables-legacy-save", "-t", "filter").splitlines()
    rule = next(line for line in saved if line.startswith("-A") and "hvtx:1:" in line)
    lab.run("iptables-legacy", *shlex.split(rule))
    assert host.attachments.check(request_for(box)) == ()
    found = [one for one in host.doctor().findings if one.check == "damage"]
    assert [one.level for one in found] == ["warning"]


def test_another_container_that_goes_meanwhile_fails_no_check(
    host: Host, box: lab.Namespace, later: lab.Namespace
) -> None:
    """Its port's row is `releasing`, and 127.0.0.1 still leads to the bridge."""
    add(host, box)
    second = AttachmentKey("podnet", "beef", "eth0")
    add(host, later, second, publish=(Publish("tcp", None, 8080, 80),))
    with stopped_del("beef"):
        assert host.attachments.check(request_for(box)) == ()
    assert host.attachments.check(request_for(box)) == ()


def test_check_tells_what_is_wrong_with_the_tap(host: Host, box: lab.Namespace) -> None:
    request = request_for(box, tap=TapRequest("tap0"))
    made = host.attachments.add(request)
    assert host.attachments.check(request) == ()
    for end in ("eth0", "tap0"):
        apart = "is not joined to eth0 any more: a tc filter that redirects is gone"
        kept = box.run("tc", "filter", "show", "dev", end, "ingress")
        box.run("tc", "filter", "del", "dev", end, "ingress")
        (found,) = host.attachments.check(request)
        assert found.what == f"the TAP device tap0 in {request.netns} {apart}"
        to = kept.partition("Redirect to device ")[2].split(")")[0]
        box.run(
            "tc", "filter", "add", "dev", end, "ingress", "protocol", "all", "prio", "1", "u32",
            "match", "u32", "0", "0", "action", "mirred", "egress", "redirect", "dev", to,
        )  # fmt: skip
        assert host.attachments.check(request) == ()
    for change, words in (
        (("set", "tap0", "down"), "is down"),
        (("set", "tap0", "alias", "another's"), 'is another interface: its alias is "another\'s"'),
        (("delete", "tap0"), "is gone"),
    ):
        box.run("ip", "link", *change)
        (found,) = host.attachments.check(request)
        assert found.what == f"the TAP device tap0 in {request.netns} {words}"
        assert found.mend.startswith(f"hvtx vm rm {made.vm} --force; ")


def test_the_tap_of_another_interface_is_not_taken(host: Host, box: lab.Namespace) -> None:
    """Nobody needs to hold it: its VM may be about to. Once its interface has gone, it is free."""
    request = TapRequest("vm0")
    add(host, box, tap=request)
    before, inside = lab.dump(), {n: link["ifindex"] for n, link in links(box).items()}
    second = AttachmentKey("podnet", "c0ffee", "eth1")
    with pytest.raises(Conflict, match=r"vm0 .* is the TAP device of eth0"):
        add(host, box, second, tap=request)
    assert {n: link["ifindex"] for n, link in links(box).items()} == inside
    assert not lab.difference(before, lab.dump())
    host.attachments.delete(KEY)
    assert add(host, box, second, tap=request).tap == "vm0"


def test_people_are_told_of_containers_and_pods(host: Host, box: lab.Namespace) -> None:
    """By what reading verbs, the history and the metrics say."""
    made = add(host, box)
    words = "eth0 of container c0ffee (pod default/web-0)"
    began = [line.message for line in host.log(event="began")]
    assert f"VM {made.vm} for {words}" in began
    [gauge] = [one for one in host.metrics() if one.name == "hvtx_attachment_info"]
    assert list(gauge.values) == [(made.vm, "podnet", "c0ffee", "eth0", "default", "web-0")]
    program = Program()
    shown = program("vm", "show", made.vm).out
    assert "c0ffee eth0, network podnet" in shown
    assert "default/web-0" in shown
    for only_of_vms in ("memory:", "cpus:", "user:", "autostart:"):
        assert only_of_vms not in shown
    assert "default/web-0" in program("vm", "ls").out
    assert program.vm(made.vm)["attachment"] == {
        "network": "podnet", "container": "c0ffee", "ifname": "eth0", "netns": path_of(box),
        "pod": "web-0", "pod_namespace": "default", "pod_uid": "uid-1", "tap": None,
    }  # fmt: skip
    items = [item for item in host.gc.plan().plan.items if item.vm == made.vm]
    assert items
    assert all(words in item.evidence for item in items)
    assert words in program("gc", "--plan").out
    host.attachments.delete(KEY)
    assert f"VM {made.vm}, {words}" in [line.message for line in host.log(event="removed")]
    assert not [one for one in host.metrics() if one.name == "hvtx_attachment_info"]


def test_the_tap_inside_is_named(host: Host, box: lab.Namespace) -> None:
    """Who is to start a VM there reads its name from `vm show`, or from a list."""
    made = add(host, box, tap=TapRequest("vm0"))
    program = Program()
    assert program.vm(made.vm)["attachment"]["tap"] == "vm0"
    [listed] = json.loads(program("vm", "ls", "--json").out)["vms"]
    assert listed["attachment"]["tap"] == "vm0"
    assert "tap inside:  vm0" in program("vm", "show", made.vm).out


@BOTH
def test_a_change_of_the_network_is_one_of_its_attachments(
    host: Host, box: lab.Namespace, world: lab.Namespace
) -> None:
    """A policy that the network gets holds containers that are up; isolation is refused."""
    host.network.create("pods", SUBNETS)
    made = add(host, box)
    with pytest.raises(Conflict, match=made.vm):
        host.network.set("pods", isolate=True)
    assert reaches(box, lab.WORLD4)
    host.network.set("pods", egress="none")
    assert not reaches(box, lab.WORLD4)
    assert host.attachments.check(request_for(box)) == ()
    assert host.gc.plan().plan.acting() == []
    host.network.set("pods", egress="")
    assert reaches(box, lab.WORLD4)
    host.attachments.delete(KEY)
    assert vms(host) == []


def test_first_adds_at_the_same_time_make_one_network(host: Host) -> None:
    """Each gets an address of its own, whoever makes the network."""
    boxes = [lab.Namespace() for _ in range(6)]
    try:
        keys = [AttachmentKey("podnet", f"c{number}", "eth0") for number in range(6)]
        with ThreadPoolExecutor(6) as pool:
            made = list(pool.map(lambda pair: add(host, *pair), zip(boxes, keys, strict=True)))
        assert len({one.addresses[0].address for one in made}) == 6
        assert {one.bridge for one in made} == {made[0].bridge}
        assert host.gc.plan().plan.acting() == []
        with ThreadPoolExecutor(6) as pool:
            list(pool.map(host.attachments.delete, keys))
        assert vms(host) == []
    finally:
        for one in boxes:
            one.close()


def test_a_reboot_ends_attachments(host: Host, box: lab.Namespace) -> None:
    """What it took is only on record then; `recover` frees the addresses, and DEL is repeatable."""
    host.network.create("pods", SUBNETS)
    made = add(host, box, publish=(Publish("tcp", None, 8080, 80),))
    path = f"{os.environ['HVTX_STATE_DIR']}/hvtx.db"
    with contextlib.closing(sqlite3.connect(path)) as store, store:
        store.execute("UPDATE life SET boot_id = ?", (f"{0:08}-0000-4000-8000-{0:012}",))
    gone(box, made.host_device)
    lab.run("ip", "link", "del", made.bridge)
    lab.run("nft", "flush", "ruleset")
    assert host.vm.show(made.vm).state == "crashed"
    host.recover()
    assert vms(host) == []
    assert host.gc.plan().plan.acting() == []
    host.attachments.delete(KEY)
    other = lab.Namespace()
    try:
        assert add(host, other).addresses == made.addresses
    finally:
        other.close()


@BOTH
def test_who_takes_over_an_address_is_reached_at_once(
    host: Host, box: lab.Namespace, later: lab.Namespace
) -> None:
    """A neighbour has the MAC address of the earlier holder of each of its addresses still."""
    add(host, box)
    mine = ("10.88.0.9", "fd88::9")
    for address in mine:
        entry = (address, "lladdr", "02:00:00:00:00:99", "dev", "eth0", "nud", "reachable")
        box.run("ip", "neigh", "replace", *entry)
    add(host, later, KEY._replace(container="beef"), addresses=mine)
    assert addresses(links(later)["eth0"]) == {"10.88.0.9/24", "fd88::9/64"}
    told = json.loads(box.run("ip", "-j", "neigh", "show", "dev", "eth0"))
    own = links(later)["eth0"]["address"]
    assert {one["dst"]: one["lladdr"] for one in told if one["dst"] in mine} == dict.fromkeys(
        mine, own
    )
