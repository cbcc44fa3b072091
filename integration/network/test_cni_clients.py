"""Real clients of CNI -- containerd by ctr and by CRI, podman, libcni -- and what they leave behind."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from integration import lab
from integration.kernel.test_vm_process import needs_qemu
from integration.lab import real_guest
from integration.lab.clients import attached, image, images, leaks
from integration.lab.clients.attached import page
from integration.lab.clients.cri import Port, sandbox
from integration.lab.clients.fixtures import here, layers, only_in_the_long_job
from integration.lab.clients.host import Host
from integration.lab.clients.leaks import LEAKS
from integration.lab.clients.libcni import Libcni, PluginFailed, Runtime
from integration.lab.clients.protobuf import decode, encode, texts
from integration.lab.clients.runtimes import (
    CONFIGURATIONS,
    PLUGINS,
    REFERENCE,
    Containerd,
    Podman,
    conflist,
    reference_plugins,
)
from integration.lab.waiting import until

__all__ = ["here", "layers"]

LEASES = "/var/lib/cni/networks/net"


def leases(host: Host) -> list[str]:
    """The addresses that host-local believes to be in use."""
    return sorted(path.name for path in host.path(LEASES).glob("10.*"))


@pytest.fixture
def reference(here: Host) -> Host:
    """A host whose network ``net`` is made by the reference plugins."""
    reference_plugins(here)
    conflist(here, "net", REFERENCE.format(name="net"))
    return here


def test_messages_of_protobuf_come_back() -> None:
    """Against bytes of the format's own description: 150 is 96 01."""
    assert encode({1: 150}) == b"\x08\x96\x01"
    assert encode({2: "testing"}) == b"\x12\x07testing"
    nested = encode({1: {1: "a"}, 7: texts({"key": "value"}), 5: [{2: 80}, {2: 81}]})
    found = decode(nested)
    assert [decode(one) for one in found[5] if isinstance(one, bytes)] == [{2: [80]}, {2: [81]}]
    with pytest.raises(ValueError, match="wire type 5"):
        decode(b"\x0d\0\0\0\0")


@only_in_the_long_job
@pytest.mark.parametrize("leak", LEAKS, ids=lambda leak: leak.__name__)
def test_the_reference_plugins_leave_an_address(
    reference: Host, leak: Callable[[Host], None]
) -> None:
    """What each way leaves, and that a GC of libcni does not end the one whose cache is lost."""
    leak(reference)
    assert leases(reference) == ["10.89.0.2"]
    if leak is leaks.cache_lost:
        leaks.collected(reference)
        assert leases(reference) == ["10.89.0.2"]


@only_in_the_long_job
def test_a_list_of_another_runtime_harms_the_living_with_the_reference_plugins(
    reference: Host,
) -> None:
    """libcni's GC sends a DEL for whatever its cache has and the list has not, also at version 1.0.0.

    The cache of libcni 1.3 knows the namespace: the interface goes out of it. That of containerd 1.6
    does not: the address is free, and still in use.
    """
    containerd = Containerd(reference)
    containerd.run("web")
    reference.run("ip", "netns", "add", "other")
    there = Runtime("other", "/run/netns/other")
    Libcni(reference).add(leaks.configured(reference), there)
    assert leases(reference) == ["10.89.0.2", "10.89.0.3"]
    leaks.collected(reference)
    assert leases(reference) == []
    assert "eth0" not in reference.run("ip", "netns", "exec", "other", "ip", "-br", "link")
    assert page("10.89.0.2") == images.PAGE


@pytest.fixture
def fresh(here: Host) -> Host:
    """A host whose network ``net`` is made by hvtx, as `hvtx cni install` leaves it."""
    attached.install(here)
    return here


@only_in_the_long_job
@pytest.mark.parametrize("leak", LEAKS, ids=lambda leak: leak.__name__)
def test_gc_alone_ends_what_a_client_left(fresh: Host, leak: Callable[[Host], None]) -> None:
    before = attached.settled(fresh)
    leak(fresh)
    assert len(attached.vms(fresh)) == 1
    attached.hvtx(fresh, "gc", "--apply")
    attached.same(fresh, before)


@only_in_the_long_job
def test_a_namespace_that_only_a_file_keeps_is_alive(fresh: Host) -> None:
    """podman can still remove the container, whose DEL comes then: gc does not take it away."""
    before = attached.settled(fresh)
    podman = Podman(fresh)
    podman.run("web", "--network", "net")
    leaks.bereaved(fresh, podman, "web")
    kept = attached.told(fresh, "gc", "--apply")["items"]
    assert {(item["action"], item["reason"]) for item in kept} <= {
        ("skip", "vm-alive"), ("skip", "reserved")
    }  # fmt: skip
    assert len(attached.vms(fresh)) == 1
    podman("rm", "-f", "-t", "0", "web")
    attached.same(fresh, before)


def loopback(host: Host) -> None:
    """containerd's CRI wants the reference plugin ``loopback`` beside any other, for each pod."""
    host.run("ln", "-s", f"{image.PLUGINS}/loopback", f"{PLUGINS}/loopback")


FOREIGN = {
    "another's list": {"cni.dev/valid-attachments": [{"containerID": "x", "ifname": "eth0"}]},
    "an empty list": {"cni.dev/valid-attachments": [], "cni.dev/attachments": []},
    "no list": {},
}


@only_in_the_long_job
@pytest.mark.parametrize("more", FOREIGN.values(), ids=FOREIGN.keys())
def test_gc_by_a_list_of_another_leaves_the_living(fresh: Host, more: dict[str, Any]) -> None:
    """The requests as libcni sends them; of two containers one is dead, and goes."""
    before = attached.settled(fresh)
    containerd = Containerd(fresh)
    containerd.run("web")
    containerd.run("dead")
    containerd.kill("dead")
    assert len(attached.vms(fresh)) == 2
    conflist = leaks.configured(fresh)
    base = {"name": "net", "cniVersion": "1.1.0"}
    answer = Libcni(fresh).call("GC", {**conflist["plugins"][0], **base, **more})
    assert (answer.code, answer.said) == (0, None), answer
    assert len(attached.vms(fresh)) == 1
    assert page(attached.FIRST) == images.PAGE
    containerd.kill("web")
    attached.hvtx(fresh, "gc", "--apply")
    attached.same(fresh, before)


@only_in_the_long_job
def test_a_whole_gc_of_libcni_leaves_the_living(fresh: Host) -> None:
    """It would send a DEL for what its cache has, whatever plugin it is: the list forbids it.

    (``disableGC``; see the same with the reference plugins above.) Dead ones are hvtx's timer's.
    """
    containerd = Containerd(fresh)
    containerd.run("web")
    there = Runtime("other", attached.made_netns(fresh, "other"))
    Libcni(fresh).add(leaks.configured(fresh), there)
    leaks.collected(fresh)
    assert "eth0" in fresh.run("ip", "netns", "exec", "other", "ip", "-br", "link")
    assert page(attached.FIRST) == images.PAGE
    assert len(attached.vms(fresh)) == 2


@only_in_the_long_job
def test_pods_of_containerd(fresh: Host, world: lab.Namespace) -> None:
    """By CRI, as a kubelet does: a port and a limit are asked for; stopped twice, then removed."""
    before = attached.settled(fresh)
    loopback(fresh)
    containerd = Containerd(fresh)
    with containerd.cri() as runtime:
        assert runtime.ready()
        limits = {
            "kubernetes.io/ingress-bandwidth": "10M",
            "kubernetes.io/egress-bandwidth": "20M",
        }
        pod = runtime.run(sandbox("web", (Port(8080, 80), Port(8053, 53, "udp")), limits))
        assert runtime.address(pod) == attached.FIRST
        assert page(lab.HOST4, 8080, *world.argv()) == images.PAGE
        (vm,) = attached.vms(fresh)
        shown = attached.hvtx(fresh, "explain", pod)
        assert "web" in shown
        assert vm["name"] in shown
        runtime.stop(pod)
        assert attached.vms(fresh) == []
        runtime.stop(pod)
        runtime.remove(pod)
        assert runtime.pods() == []
    attached.same(fresh, before)


@only_in_the_long_job
def test_containers_of_podman(fresh: Host, world: lab.Namespace) -> None:
    """Ports, an address and a MAC that are asked for, a reload, a restart, a second interface."""
    before = attached.settled(fresh)
    podman = Podman(fresh)
    asked = ("--ip", "10.77.0.40", "--mac-address", "02:00:00:00:00:40")
    podman.run("web", "--network", "net", "-p", "8080:80", "-p", "127.0.0.1:8081:80", *asked)
    known = podman.inspect("web")["NetworkSettings"]["Networks"]["net"]
    assert (known["IPAddress"], known["MacAddress"]) == ("10.77.0.40", "02:00:00:00:00:40")
    for again in ((), ("network", "reload", "web"), ("restart", "-t", "0", "web")):
        if again:
            podman(*again)
        assert page(lab.HOST4, 8080, *world.argv()) == images.PAGE
        assert page("127.0.0.1", 8081) == images.PAGE
        assert len(attached.vms(fresh)) == 1
    podman("rm", "-f", "-t", "0", "web")
    attached.same(fresh, before)


@only_in_the_long_job
def test_what_a_person_sees_of_a_refusal(fresh: Host) -> None:
    """A port that is taken: the words of the plugin reach the terminal, with what to do."""
    before = attached.settled(fresh)
    podman = Podman(fresh)
    podman.run("web", "--network", "net", "-p", "8080:80")
    argv = ("run", "-d", "--network", "net", "-p", "8080:80", images.NAME)
    done = fresh.ran("podman", *argv)
    assert done.returncode != 0
    assert "8080" in done.stderr
    assert len(attached.vms(fresh)) == 1
    podman("rm", "-f", "-t", "0", "--all")
    attached.same(fresh, before)


@only_in_the_long_job
def test_two_runtimes_on_one_network(fresh: Host) -> None:
    """containerd and podman side by side, with GC between: no address twice, nobody cut off."""
    before = attached.settled(fresh)
    containerd, podman, client = Containerd(fresh), Podman(fresh), Libcni(fresh)
    conf = {**leaks.configured(fresh)["plugins"][0], "name": "net", "cniVersion": "1.1.0"}

    def by_containerd(number: int) -> None:
        containerd.run(f"c{number}")

    def by_podman(number: int) -> None:
        podman.run(f"p{number}", "--network", "net", "-p", f"{8100 + number}:80")

    def collects(_number: int) -> None:
        answer = client.call("GC", {**conf, "cni.dev/valid-attachments": []})
        assert answer.code == 0, answer

    there = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    enter = (lab.setns, (there,))  # each thread into the network namespace of this test
    with ThreadPoolExecutor(6, initializer=enter[0], initargs=enter[1]) as pool:
        acts = (by_containerd, by_podman, collects)
        for one in [pool.submit(act, number) for number in range(6) for act in acts]:
            one.result()
    os.close(there)
    found = [interface["ipv4"] for vm in attached.vms(fresh) for interface in vm["interfaces"]]
    assert len(set(found)) == len(found) == 12
    assert [page(address) for address in found] == [images.PAGE] * 12
    for number in range(6):
        containerd.kill(f"c{number}")
    podman("rm", "-f", "-t", "0", "--all")
    assert len(attached.vms(fresh)) == 6  # of containerd: nobody sent a DEL
    attached.hvtx(fresh, "gc", "--apply")
    attached.same(fresh, before)


@only_in_the_long_job
def test_status_and_check_of_libcni(fresh: Host) -> None:
    before = attached.settled(fresh)
    client, conflist = Libcni(fresh), leaks.configured(fresh)
    client.status(conflist)
    there = Runtime("one", attached.made_netns(fresh, "one"))
    result = client.add(conflist, there)
    client.check(conflist, there)
    _bridge, device, _inside = result["interfaces"]
    fresh.run("ip", "netns", "exec", "one", "ip", "addr", "flush", "dev", "eth0")
    with pytest.raises(PluginFailed, match=r"10\.77\.0\.2") as told:
        client.check(conflist, there)
    assert told.value.answer.said["details"]
    lab.run("ip", "link", "delete", device["name"])
    client.delete(conflist, there)
    client.delete(conflist, there)  # again, and of what is not there: no error
    fresh.run("ip", "netns", "delete", "one")
    attached.same(fresh, before)


GUEST = """
ip link set lo up
ip addr add {address} dev eth0
ip link set eth0 up
ip route add default via {gateway}
mkdir /www
echo "served by a guest" >/www/index.html
httpd -p 80 -h /www
"""


@only_in_the_long_job
@needs_qemu
def test_a_vm_in_the_namespace_is_reached_through_the_host_port(
    fresh: Host, world: lab.Namespace, guest_files: Path, tmp_path: Path
) -> None:
    """``"vm": true``: QEMU on the TAP has the container's MAC and address, as firecracker would."""
    before = attached.settled(fresh)
    client, conflist = Libcni(fresh), leaks.configured(fresh)
    conflist["plugins"][0]["vm"] = True
    ports = [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]
    asked = Runtime("vm", attached.made_netns(fresh, "vm"), capabilities={"portMappings": ports})
    result = client.add(conflist, asked)
    at = [(one, result["interfaces"][one["interface"]]) for one in result["ips"]]
    ((address, guest),) = [
        (one, there) for one, there in at if there["sandbox"] == "vm"
    ]  # its container's id, as firecracker's SDK looks for it
    assert [there["name"] for _, there in at if there is not guest] == ["eth0"]
    names = [i["name"] for i in result["interfaces"] if i.get("sandbox") == asked.netns]
    assert names == ["eth0", guest["name"]]
    script = GUEST.format(address=address["address"], gateway=address["gateway"])
    initrd = real_guest.initramfs(script, tmp_path / "initrd.img")
    nic = f"virtio-net-pci,netdev=n,mac={guest['mac']}"
    argv = (
        "nsenter", f"--net={fresh.path(asked.netns)}", "qemu-system-x86_64", "-accel", "tcg",
        "-m", "128", "-nodefaults", "-no-user-config", "-display", "none", "-serial",
        f"file:{tmp_path}/console", "-kernel", str(guest_files / "vmlinuz"),
        "-initrd", str(initrd), "-append", "console=ttyS0 quiet", "-device", nic,
        "-netdev", f"tap,id=n,ifname={guest['name']},script=no,downscript=no",
    )  # fmt: skip
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
    try:
        said = tmp_path / "console"
        until("the guest", lambda: said.exists() and "guest: done" in said.read_text(), 90)
        assert page(lab.HOST4, 8080, *world.argv()) == "served by a guest"
        assert page(address["address"].partition("/")[0]) == "served by a guest"
    finally:
        process.kill()
        process.wait()
    client.delete(conflist, asked)
    fresh.run("ip", "netns", "delete", "vm")
    attached.same(fresh, before)


@only_in_the_long_job
def test_the_subnet_of_a_node_is_that_of_the_cluster(fresh: Host) -> None:
    """containerd's conf_template: a kubelet says which, and the configuration is made of it."""
    (installed,) = fresh.path(CONFIGURATIONS).glob("*.conflist")
    text = installed.read_text()
    assert attached.SUBNET in text
    fresh.write("/etc/containerd/net.template", text.replace(attached.SUBNET, "{{.PodCIDR}}"))
    installed.unlink()
    loopback(fresh)
    containerd = Containerd(fresh, "/etc/containerd/net.template")
    with containerd.cri() as runtime:
        assert not runtime.ready()
        runtime.give_subnet("10.99.3.0/24")
        until("the network", runtime.ready, 30)
        pod = runtime.run(sandbox("web"))
        assert runtime.address(pod) == "10.99.3.2"
        assert page("10.99.3.2") == images.PAGE
        runtime.stop(pod)
        runtime.remove(pod)
    assert attached.vms(fresh) == []


@only_in_the_long_job
def test_a_container_in_two_networks_has_its_port_once(fresh: Host, world: lab.Namespace) -> None:
    """podman asks each of its networks for all of its ports; the first has them."""
    second = attached.configured(fresh)
    second["name"] = second["plugins"][0]["network"] = "two"
    second["plugins"][0]["subnets"] = ["10.78.0.0/24"]
    conflist(fresh, "two", json.dumps(second))
    podman = Podman(fresh)
    podman.run("web", "--network", "net,two", "-p", "8080:80")
    published = [i["publish"] for vm in attached.vms(fresh) for i in vm["interfaces"]]
    assert sorted(map(len, published)) == [0, 1]
    for again in ((), ("network", "reload", "web")):
        if again:
            podman(*again)
        assert page(lab.HOST4, 8080, *world.argv()) == images.PAGE
    podman("rm", "-f", "-t", "0", "web")
    assert attached.vms(fresh) == []
