"""The resources of a network's service, and who gets a reservation in it."""

from __future__ import annotations

from hvtx.model.policy import NO_POLICY
from hvtx.model.resource import Resource, State
from hvtx.model.vm import Attachment, Interface, Network, Vm
from hvtx.planner import service
from hvtx.planner.egress_rules import parse_policy
from hvtx.planner.scope import NetworkScope

PLAIN = Network(
    "n1", "lan", "hvbr0", "02:00:00:00:00:01", 1400, True, False, "nftables",
    ("10.77.0.0/24", "fd77::/64"), ("10.77.0.1", "fd77::1"), "fe80::1",
)  # fmt: skip
SERVED = PLAIN._replace(dhcp=True)
GUEST = Interface(1, "n1", "lan", "02:00:00:00:00:07", "10.77.0.7", "fd77::7", ())


def test_a_network_without_dhcp_has_no_service() -> None:
    assert service.want_service(PLAIN, "/run/hvtx/i") == []
    assert service.want_reservation("v1", "web", GUEST, PLAIN, "/run/hvtx/i") == []


def test_a_service_is_a_directory_and_a_process_that_says_all() -> None:
    directory, process = service.want_service(SERVED, "/run/hvtx/i")
    assert (directory.kind, directory.key) == ("file", "/run/hvtx/i/networks/n1")
    assert (process.kind, process.key) == ("process", "dnsmasq lan")
    assert process.spec == {
        "hypervisor": "dnsmasq", "directory": "/run/hvtx/i/networks/n1", "bridge": "hvbr0",
        "mtu": 1400, "subnets": ["10.77.0.0/24", "fd77::/64"], "gateways": ["10.77.0.1", "fd77::1"],
    }  # fmt: skip


def test_a_reservation_is_of_one_interface() -> None:
    [want] = service.want_reservation("v1", "web", GUEST, SERVED, "/run/hvtx/i")
    assert want.spec == {
        "path": "/run/hvtx/i/networks/n1/hosts/v1-1",
        "reservation": {
            "name": "web", "mac": "02:00:00:00:00:07", "ipv4": "10.77.0.7", "ipv6": "fd77::7",
        },
    }  # fmt: skip
    bare = GUEST._replace(ipv4=None, ipv6=None)
    assert service.want_reservation("v1", "web", bare, SERVED, "/run/hvtx/i") == []


def test_a_container_does_not_ask_but_a_vm_behind_its_tap_may() -> None:
    container = Attachment("pods", "c0ffee", "eth0", "/run/netns/n0")
    assert service.asks(None, tap=False)
    assert not service.asks(container, tap=False)
    assert service.asks(container, tap=True)


def test_who_should_be_served_and_is_not() -> None:
    def row(life: int, vm: str | None = None) -> Resource:
        return Resource(1, "process", "dnsmasq lan", State.COMMITTED, "", {}, {}, 1, life, vm, "n1")

    def scope(network: Network, *rows: Resource) -> NetworkScope:
        return NetworkScope(2, {"n1": network}, rows)

    assert service.unserved(scope(SERVED)) == [SERVED]
    assert service.unserved(scope(PLAIN)) == []
    assert service.unserved(scope(SERVED, row(2))) == []
    assert service.unserved(scope(SERVED, row(1))) == [SERVED], "of an earlier life"
    assert service.unserved(scope(SERVED, row(2, "v1"))) == [SERVED], "a VM's"
    assert service.service_of([row(2, "v1"), row(2)], "n1") == row(2)


def test_names_that_a_policy_allows_are_told_by_a_file_of_their_own() -> None:
    policy = parse_policy("none", ["example.org:443", "192.0.2.1"], [])
    vm = Vm(
        "v1", "web", "command", 1, 1, None, None, None, (), (), None, False, (GUEST,), policy=policy
    )
    [want] = service.want_names(vm, GUEST, SERVED, "/run/hvtx/i")
    assert want.key == "/run/hvtx/i/networks/n1/egress/v1-1"
    assert want.spec["names"] == {
        "mac": GUEST.mac, "apart": True, "rules": [["allow", "example.org", 443, 443, None]],
    }  # fmt: skip
    assert len(service.want_told(vm, GUEST, SERVED, "/run/hvtx/i", tap=False)) == 2
    container = vm._replace(attachment=Attachment("net", "c0ffee", "eth0", "/run/netns/box"))
    assert service.want_told(container, GUEST, SERVED, "/run/hvtx/i", tap=False) == [want]
    assert len(service.want_told(container, GUEST, SERVED, "/run/hvtx/i", tap=True)) == 2
    more = vm._replace(policy=policy._replace(egress=None))
    assert service.want_names(more, GUEST, SERVED, "/r")[0].spec["names"]["apart"] is False
    assert service.want_names(vm, GUEST, PLAIN, "/r") == []
    assert service.want_names(vm._replace(policy=NO_POLICY), GUEST, SERVED, "/r") == []


def test_a_networks_own_names_are_its_dnsmasqs() -> None:
    network = SERVED._replace(policy=parse_policy("none", ["example.org"], ["192.0.2.1"]))
    assert service.want_process(network, "/r").spec["names"] == [
        ["allow", "example.org", None, None, None]
    ]
    assert "names" not in service.want_process(SERVED, "/r").spec
