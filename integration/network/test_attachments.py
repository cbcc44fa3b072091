"""Attachments: interfaces of containers, made and removed on the real kernel."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from hvtx import Conflict, Host, NotFound
from hvtx.model.attachment import Attached, AttachmentKey, AttachmentRequest, PodLabels
from hvtx.model.policy import Limits
from hvtx.model.vm import Publish
from integration import lab

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
    deadline = time.monotonic() + 10
    while host_device in links() and time.monotonic() < deadline:
        time.sleep(0.005)
    assert host_device not in links()


SENT = 1 << 20
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
    argv = box.argv(sys.executable, "-c", SERVE, str(inside), str(SENT))
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == b"ready\n"
            with socket.create_connection((address, port), 10) as client:
                client.settimeout(10)
                return sum(map(len, iter(lambda: client.recv(1 << 16), b"")))
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


def test_the_calling_thread_stays_where_it_is(host: Host, box: lab.Namespace) -> None:
    here = os.stat("/proc/thread-self/ns/net").st_ino
    add(host, box)
    assert os.stat("/proc/thread-self/ns/net").st_ino == here
    with contextlib.suppress(NotFound):
        host.attachments.delete(KEY)
