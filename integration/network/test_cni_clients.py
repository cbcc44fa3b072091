"""Real clients of CNI -- containerd by ctr and by CRI, podman, libcni -- and what they leave behind."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from integration import lab
from integration.lab.clients import images, leaks
from integration.lab.clients.fixtures import here, layers, only_in_the_long_job
from integration.lab.clients.host import Host
from integration.lab.clients.leaks import LEAKS
from integration.lab.clients.libcni import Libcni, Runtime
from integration.lab.clients.protobuf import decode, encode, texts
from integration.lab.clients.runtimes import (
    REFERENCE,
    Containerd,
    conflist,
    reference_plugins,
)

__all__ = ["here", "layers"]

LEASES = "/var/lib/cni/networks/net"


def leases(host: Host) -> list[str]:
    """The addresses that host-local believes to be in use."""
    return sorted(path.name for path in host.path(LEASES).glob("10.*"))


def page(address: str, port: int = 80, *enter: str) -> str:
    """What is served there; ``enter`` are words that enter the namespace of who asks."""
    return lab.run(*enter, "curl", "-sS", "-m", "5", f"http://{address}:{port}/").strip()


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
