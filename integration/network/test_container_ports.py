"""Host ports of containers: their runtime holds them, not hvtx, and it asks for them more than once."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from hvtx import Conflict, Host
from hvtx.model.attachment import AttachmentKey, AttachmentRequest
from hvtx.model.vm import Publish
from integration import lab
from integration.lab.waiting import until

PORT = Publish("tcp", None, 8080, 80)
# listens until its input ends, as podman's conmon does; its words are those of its caller
LISTEN = """
import socket, sys
with socket.create_server(("0.0.0.0", 8080)):
    print("listens", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def host(netns: None) -> Iterator[Host]:
    with Host(firewall="nftables", lock_timeout=30) as made:
        yield made


@pytest.fixture
def box(netns: None) -> Iterator[lab.Namespace]:
    made = lab.Namespace()
    yield made
    made.close()


@pytest.fixture
def later(netns: None) -> Iterator[lab.Namespace]:
    """The namespace of the container when it starts anew."""
    made = lab.Namespace()
    yield made
    made.close()


def asked(box: lab.Namespace, network: str = "one", ifname: str = "eth0") -> AttachmentRequest:
    """For the container c0ffee."""
    number = {"one": 1, "two": 2}[network]
    key, netns = AttachmentKey(network, "c0ffee", ifname), f"/proc/{box.pid}/ns/net"
    return AttachmentRequest(key, network, netns, (f"10.88.{number}.0/24",), publish=(PORT,))


def published(host: Host) -> list[Publish]:
    return [port for shown in host.vm.ls() for one in shown.vm.interfaces for port in one.publish]


def listening(*words: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", LISTEN, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "listens\n"
    return process


def test_the_runtime_may_bind_to_a_port_once_it_is_published(
    host: Host, box: lab.Namespace
) -> None:
    """And nobody says that something is missing because hvtx does not hold it."""
    made = host.attachments.add(asked(box))
    with socket.create_server(("0.0.0.0", 8080)):
        pass
    done = host.repair(made.vm)
    assert (done.repaired, done.failed) == ((), ())
    assert "its runtime may listen on it" in host.explain("8080/tcp").evidence


def test_a_port_that_the_runtime_listens_on_is_the_containers(
    host: Host, box: lab.Namespace
) -> None:
    process = listening("-c", "c0ffee")
    try:
        host.attachments.add(asked(box))
        told = host.explain("8080/tcp").evidence
    finally:
        process.communicate()
    assert published(host) == [PORT]
    assert any("listens on it, too" in one for one in told)


def test_a_port_that_another_program_listens_on_is_refused(host: Host, box: lab.Namespace) -> None:
    """One whose words do not have the container's id, or only as a part of one."""
    for words in ((), ("-c", "c0ffee0"), ("--id=c0ffee",)):
        process = listening(*words)
        try:
            with pytest.raises(Conflict, match="port 8080/tcp"):
                host.attachments.add(asked(box))
        finally:
            process.communicate()
    assert list(host.vm.ls()) == []


def test_two_networks_of_a_container_publish_a_port_once(host: Host, box: lab.Namespace) -> None:
    """podman asks each for all ports. Another container gets no such leave."""
    host.attachments.add(asked(box))
    host.attachments.add(asked(box, "two", "eth1"))
    assert published(host) == [PORT]
    host.attachments.delete(asked(box).key)
    host.attachments.add(asked(box))  # `network reload` takes them in any order
    assert published(host) == [PORT]
    other = asked(box)._replace(key=AttachmentKey("one", "beef", "eth2"))
    with pytest.raises(Conflict, match="port 8080/tcp is published"):
        host.attachments.add(other)


def test_a_port_of_a_dead_attachment_is_published_for_the_next_network(
    host: Host, box: lab.Namespace, later: lab.Namespace
) -> None:
    """The container was killed without a DEL, and starts anew in another network."""
    first = host.attachments.add(asked(box))
    box.close()
    until("the end of its interface", lambda: first.host_device not in lab.run("ip", "-o", "link"))
    second = host.attachments.add(asked(later, "two"))
    assert published(host) == [PORT]
    assert [shown.vm.name for shown in host.vm.ls()] == [second.vm]
    assert host.attachments.check(asked(later, "two")) == ()
