"""What the seed of a VM says, whole: the expected values are written out."""

from __future__ import annotations

from hvtx.model.user import User
from hvtx.model.vm import Interface, Network, Vm
from hvtx.planner.provision import want_vm
from hvtx.planner.seed import meta_data, network_config, seed_of

LAN = Network(
    "n1", "lan", "hvbr1", "02:00:00:00:00:01", 1500, True, False, "nftables",
    ("10.77.0.0/24", "fd77::/64"), ("10.77.0.1", "fd77::1"), "fe80::1",
)  # fmt: skip
FAR = LAN._replace(
    id="n2", name="far", mtu=9000, subnets=("10.78.0.0/16",), gateways=("10.78.0.1",), gateway6=None
)
ETH0 = Interface(0, "n1", "lan", "52:54:00:12:34:56", "10.77.0.2", "fd77::2", ())
ETH1 = Interface(1, "n2", "far", "02:00:00:00:00:0b", "10.78.3.4", None, ())
WEB = Vm(
    "id-web", "web", "qemu", 256, 1, None, None, None, ("/d/a.qcow2",), (), "", False, (ETH0, ETH1),
    ssh_keys=("ssh-ed25519 AAAA me",),
)  # fmt: skip
NETWORKS = {"n1": LAN, "n2": FAR}


def test_addresses_ways_out_and_mtu_where_nobody_else_tells() -> None:
    """By MAC, with the prefix of each subnet; the second card's way out is the worse one."""
    assert network_config(WEB, NETWORKS) == {
        "version": 2,
        "ethernets": {
            "eth0": {
                "match": {"macaddress": "52:54:00:12:34:56"},
                "set-name": "eth0",
                "dhcp4": False,
                "dhcp6": False,
                "addresses": ["10.77.0.2/24", "fd77::2/64"],
                "routes": [{"to": "0.0.0.0/0", "via": "10.77.0.1", "metric": 100}],
                "gateway6": "fd77::1",
            },
            "eth1": {
                "match": {"macaddress": "02:00:00:00:00:0b"},
                "set-name": "eth1",
                "mtu": 9000,
                "dhcp4": False,
                "dhcp6": False,
                "addresses": ["10.78.3.4/16"],
                "routes": [{"to": "0.0.0.0/0", "via": "10.78.0.1", "metric": 101}],
            },
        },
    }


def test_only_one_way_out_over_ipv6_is_a_gateway() -> None:
    """The first that nobody else tells of: gateway6 has no metric, and stands once."""
    both = LAN._replace(
        id="n2", subnets=("10.78.0.0/16", "fd78::/64"), gateways=("10.78.0.1", "fd78::1")
    )
    vm = WEB._replace(interfaces=(ETH0, ETH1._replace(ipv6="fd78::4")))
    told = network_config(vm, {"n1": LAN, "n2": both})["ethernets"]
    assert told["eth0"]["gateway6"] == "fd77::1"
    assert "gateway6" not in told["eth1"]
    assert told["eth1"]["routes"] == [
        {"to": "0.0.0.0/0", "via": "10.78.0.1", "metric": 101},
        {"to": "::/0", "via": "fd78::1", "metric": 1025},
    ]
    asked = network_config(vm, {"n1": LAN._replace(dhcp=True), "n2": both})["ethernets"]
    assert "gateway6" not in asked["eth0"]
    assert asked["eth1"]["gateway6"] == "fd78::1"


def test_a_network_with_a_service_is_asked() -> None:
    """For each family that the guest has an address of, and for nothing else."""
    told = network_config(WEB, {"n1": LAN._replace(dhcp=True), "n2": FAR._replace(dhcp=True)})
    assert told["ethernets"]["eth0"] == {
        "match": {"macaddress": "52:54:00:12:34:56"},
        "set-name": "eth0",
        "dhcp4": True,
        "dhcp6": True,
    }
    assert told["ethernets"]["eth1"] == {
        "match": {"macaddress": "02:00:00:00:00:0b"},
        "set-name": "eth1",
        "mtu": 9000,
        "dhcp4": True,
        "dhcp6": False,
    }


def test_all_addresses_of_an_interface() -> None:
    """The second one of a family too; a family without an address has no way out."""
    only = ETH0._replace(ipv6=None, more=("10.77.0.9",))
    card = network_config(WEB._replace(interfaces=(only,)), NETWORKS)["ethernets"]["eth0"]
    assert card["addresses"] == ["10.77.0.2/24", "10.77.0.9/24"]
    assert [route["to"] for route in card["routes"]] == ["0.0.0.0/0"]


def test_who_the_guest_is() -> None:
    assert meta_data(WEB) == {
        "instance-id": "id-web",
        "local-hostname": "web",
        "public-keys": ["ssh-ed25519 AAAA me"],
    }
    assert meta_data(WEB._replace(ssh_keys=())) == {
        "instance-id": "id-web",
        "local-hostname": "web",
    }


def test_the_seed_is_its_users() -> None:
    path, spec = seed_of(WEB._replace(user_data="/d/init"), NETWORKS, "/run/v", User(7, 8))
    assert path == spec["path"] == "/run/v/seed.iso"
    assert (spec["what"], spec["user_data"]) == ("seed", "/d/init")
    assert (spec["owner"], spec["group"]) == (7, 8)
    assert "owner" not in seed_of(WEB, NETWORKS, "/run/v", None)[1]


def wants(vm: Vm) -> list[tuple[str, str]]:
    made = want_vm(
        vm, NETWORKS, bridges={"n1": 5, "n2": 6},
        devices=[("hva", 11, "fe:00:00:00:00:01"), ("hvb", 12, "fe:00:00:00:00:02")],
        directory="/run/v", process=True,
    )  # fmt: skip
    return [(want.kind, want.key) for want, _ in made]


def test_only_who_asks_has_one() -> None:
    """It stands behind its directory, and before all else; without it all is as it was."""
    plain = wants(WEB._replace(ssh_keys=()))
    assert [key for kind, key in plain if kind == "file"] == ["/run/v"]
    for asked in ({"user_data": "/d/init"}, {"ssh_keys": ("ssh-ed25519 AAAA",)}):
        vm = WEB._replace(**{"ssh_keys": (), **asked})
        assert wants(vm) == [plain[0], ("file", "/run/v/seed.iso"), *plain[1:]]


def test_a_device_with_several_queues_says_so() -> None:
    for queues, said in ((1, None), (4, 4)):
        made = want_vm(
            WEB._replace(queues=queues), NETWORKS, bridges={"n1": 5, "n2": 6},
            devices=[("hva", 11, "fe:00:00:00:00:01"), ("hvb", 12, "fe:00:00:00:00:02")],
            directory="/run/v", process=True,
        )  # fmt: skip
        assert [want.spec.get("queues") for want, _ in made if want.kind == "tap"] == [said] * 2


def test_further_addresses_are_told_where_a_service_tells_the_first() -> None:
    """A guest is given one address of a family by DHCP."""
    eth0 = ETH0._replace(more=("10.77.0.9", "fd77::9"))
    vm = WEB._replace(interfaces=(eth0,))
    card = network_config(vm, {"n1": LAN._replace(dhcp=True)})["ethernets"]["eth0"]
    assert card["dhcp4"]
    assert card["dhcp6"]
    assert card["addresses"] == ["10.77.0.9/24", "fd77::9/64"]
    assert "routes" not in card
