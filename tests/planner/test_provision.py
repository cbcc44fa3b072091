"""What a start needs: names, indexes, addresses of devices, and the list of wants in order."""

from __future__ import annotations

import ipaddress
import os
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvtx.model.mark import ALPHABET, base32, make_mark
from hvtx.model.resource import Kind
from hvtx.model.vm import Interface, Network, Publish, Vm
from hvtx.planner import provision
from hvtx.planner.addressing import parse_device, parse_mac

LAN = Network(
    id="net-lan",
    name="lan",
    bridge="hvbrlan",
    mac="02:aa:bb:cc:dd:ee",
    mtu=1400,
    nat=True,
    isolate=True,
    firewall="nftables",
    subnets=("10.77.0.0/24", "fd00:7::/64"),
    gateways=("10.77.0.1", "fd00:7::1"),
    gateway6="fe80::aa:bbff:fecc:ddee",
)
PORTS = (Publish("tcp", None, 8080, 80), Publish("udp", "2001:db8::1", 53, 53))
VM = Vm(
    id="id-web",
    name="web",
    hypervisor="qemu",
    memory=256,
    cpus=1,
    kernel=None,
    initrd=None,
    append=None,
    disks=(),
    command=(),
    directory="/",
    autostart=False,
    interfaces=(
        Interface(0, LAN.id, "lan", "02:00:00:00:00:05", "10.77.0.5", "fd00:7::5", PORTS),
        Interface(1, "net-dmz", "dmz", "02:00:00:00:00:06", None, "fd00:8::6", ()),
    ),
)
DMZ = LAN._replace(id="net-dmz", name="dmz", bridge="hvbrdmz", nat=False, isolate=False, mtu=1500)
DEVICES = [("hvaaa", 20_000_001, "fe:00:00:00:00:01"), ("hvbbb", 20_000_002, "fe:00:00:00:00:02")]


# -- names -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "prefix", "size"),
    [(provision.device_name, "hv", 8), (provision.bridge_name, "hvbr", 8)],
)
def test_names_hold_fifty_random_bits_in_fifteen_characters(make, prefix: str, size: int) -> None:
    """Each of 50 and more bits of what arrives changes the name; the kernel takes 15 characters."""
    name = make(bytes(size))
    assert name.startswith(prefix)
    assert len(name) <= 15
    assert parse_device(name) == name
    bits = sum(make((1 << bit).to_bytes(size, "big")) != name for bit in range(8 * size))
    assert bits >= 50
    tail = name[len(prefix) :]
    assert len(tail) * 5 == bits, "every character carries five bits of its own"


@given(st.binary(min_size=8, max_size=8), st.binary(min_size=8, max_size=8))
def test_names_differ_where_their_bits_do(one: bytes, two: bytes) -> None:
    """Equal names only for equal low 60 bits."""
    mask = (1 << 60) - 1
    same = int.from_bytes(one, "big") & mask == int.from_bytes(two, "big") & mask
    assert (provision.device_name(one) == provision.device_name(two)) is same


@given(st.binary(min_size=10, max_size=20), st.integers(0, 16))
def test_base32_has_the_length_that_was_asked_for(data: bytes, length: int) -> None:
    """And stays in its alphabet, which no shell and no netlink attribute minds."""
    text = base32(data, length)
    assert len(text) == length
    assert set(text) <= set(ALPHABET)
    assert len(ALPHABET) == len(set(ALPHABET)) == 32


@given(st.binary(min_size=4, max_size=4))
def test_indexes_lie_where_the_kernel_never_goes_by_itself(random: bytes) -> None:
    """2^24 and above, and a positive 32-bit number as the kernel wants it."""
    assert 1 << 24 <= provision.device_index(random) < 1 << 31


@given(st.binary(min_size=5, max_size=5))
def test_macs_are_local_and_unicast(random: bytes) -> None:
    """The guest's begins with 02; the host's with fe, above every bridge's."""
    guest, host = provision.guest_mac(random), provision.host_mac(random)
    assert parse_mac(guest) == guest
    assert parse_mac(host) == host
    assert guest.startswith("02:")
    assert host.startswith("fe:")
    assert host > guest


@given(st.binary(min_size=5, max_size=5))
def test_macs_are_text_in_yaml(random: bytes) -> None:
    """YAML 1.1 reads 52:54:00:12:34:56 as a number (findings/yaml-mac-is-a-number.sh)."""
    number = re.compile(r"[-+]?[1-9][0-9_]*(:[0-5]?[0-9])+")  # base 60, as YAML 1.1 has it
    assert number.fullmatch("52:54:00:12:34:56")
    assert not number.fullmatch(provision.guest_mac(random))
    assert not number.fullmatch(provision.host_mac(random))


def test_link_local_addresses_follow_the_rfc() -> None:
    """The example of RFC 4291, appendix A: 34-56-78-9A-BC-DE has ::3656:78ff:fe9a:bcde."""
    assert provision.link_local("34:56:78:9a:bc:de") == "fe80::3656:78ff:fe9a:bcde"
    mac = provision.guest_mac(os.urandom(5))
    assert ipaddress.ip_address(provision.link_local(mac)).is_link_local


# -- networks --------------------------------------------------------------------------------------


def wants_of_network(network: Network = LAN, **more):
    defaults = {
        "ifindex": 20_000_000,
        "bases": ["nftables inet"],
        "settings": [],
    }
    return provision.want_network(network, **{**defaults, **more})


def test_a_network_begins_with_its_settings_and_bridge() -> None:
    """Settings before the base, both shared; the bridge is the first of its own."""
    shared, own = wants_of_network(settings=[("net/ipv4/ip_forward", "1", "0")])
    assert [want.kind for want in shared] == [Kind.SYSCTL, Kind.FILTER]
    assert shared[0].key == "net.ipv4.ip_forward"
    assert shared[0].spec == {"path": "net/ipv4/ip_forward", "value": "1", "before": "0"}
    assert shared[1].spec == {"backend": "nftables", "what": "base", "families": ["inet"]}
    assert [want.kind for want in own] == [Kind.BRIDGE, Kind.FILTER]


def test_the_bridge_knows_which_addresses_are_its_own() -> None:
    """Gateways with the subnet's length, and the link-local one where there is IPv6."""
    _, own = wants_of_network()
    addresses = ["10.77.0.1/24", "fd00:7::1/64", "fe80::aa:bbff:fecc:ddee/64"]
    assert own[0].spec["addresses"] == addresses
    wants = provision.want_addresses(LAN, 20_000_000, "m")
    assert [(want.kind, want.key) for want in wants] == [(Kind.ADDRESS, a) for a in addresses]
    assert [want.spec for want in wants] == [
        {"device": LAN.bridge, "ifindex": 20_000_000, "owner": "m", "address": address}
        for address in addresses
    ]
    four = LAN._replace(subnets=LAN.subnets[:1], gateways=LAN.gateways[:1], gateway6=None)
    assert wants_of_network(four)[1][0].spec["addresses"] == ["10.77.0.1/24"]


OLD = {"backend": "nftables", "what": "base"}  # one row for both tables
BASES = {
    name: wants_of_network(bases=[name])[0][0].spec
    for name in ("nftables bridge", "nftables inet", "iptables")
}


def test_a_network_has_rules_of_its_own_backend_only() -> None:
    """What belongs in nftables' bridge family on both backends is the table's and the devices'."""
    for firewall in ("nftables", "iptables"):
        _, own = wants_of_network(LAN._replace(firewall=firewall))
        assert [w.spec["backend"] for w in own if w.kind == Kind.FILTER] == [firewall]


@pytest.mark.parametrize(
    ("firewall", "there", "missing"),
    [
        ("nftables", [], ["nftables bridge", "nftables inet"]),
        ("iptables", [], ["nftables bridge", "iptables"]),
        ("nftables", [BASES["nftables bridge"], BASES["iptables"]], ["nftables inet"]),
        ("iptables", [BASES["nftables bridge"], BASES["nftables inet"]], ["iptables"]),
        ("nftables", [OLD], []),
        ("iptables", [OLD], ["iptables"]),
        ("iptables", [OLD, BASES["iptables"]], []),
    ],
)
def test_bases_that_are_missing(firewall: str, there: list, missing: list[str]) -> None:
    """The iptables backend needs nftables' bridge family, and nothing else of nftables."""
    assert provision.missing_bases(firewall, there) == missing


@pytest.mark.parametrize(
    ("stay", "idle"),
    [
        ([], ["nftables bridge", "nftables inet", "iptables", "old"]),
        (["nftables"], ["iptables"]),
        (["iptables"], ["nftables inet"]),
        (["iptables", "nftables"], []),
    ],
)
def test_bases_that_nobody_stands_on(stay: list[str], idle: list[str]) -> None:
    """A table goes with the last network of its backend; those of an earlier version go together.

    Networks of that version have elements in its table ``inet`` on both backends.
    """
    specs = {**BASES, "old": OLD}
    assert [name for name, spec in specs.items() if provision.idle_base(spec, stay)] == idle


# -- VMs -------------------------------------------------------------------------------------------


def wants_of_vm(
    networks=None, *, vm: Vm = VM, directory: str | None = "/run/x", process: bool = True
):
    return provision.want_vm(
        vm,
        networks or {LAN.id: LAN, DMZ.id: DMZ},
        bridges={LAN.id: 901, DMZ.id: 902},
        devices=DEVICES[: len(vm.interfaces)],
        directory=directory,
        process=process,
    )


def test_a_vm_is_its_directory_its_devices_and_its_process_last() -> None:
    """In the order in which they are made."""
    kinds = [want.kind for want, _ in wants_of_vm()]
    assert kinds[0] == Kind.FILE
    assert kinds[-1] == Kind.PROCESS
    assert [kind for kind in kinds if kind == Kind.TAP] == [Kind.TAP] * 2
    assert kinds.count(Kind.MASQUERADE) == 2, "one for each address behind NAT"
    assert kinds.count(Kind.PUBLISH) == 2


def test_each_device_is_a_port_of_its_networks_bridge() -> None:
    """With that network's MTU, and the network on the row."""
    taps = [(want.spec, network) for want, network in wants_of_vm() if want.kind == Kind.TAP]
    assert [(s["device"], s["bridge"], s["master"], s["mtu"], n) for s, n in taps] == [
        ("hvaaa", "hvbrlan", 901, 1400, LAN.id),
        ("hvbbb", "hvbrdmz", 902, 1500, DMZ.id),
    ]


def test_anti_spoofing_knows_exactly_the_leased_addresses() -> None:
    """MAC and both addresses; isolation is the network's."""
    walls = [w.spec for w, _ in wants_of_vm() if w.kind == Kind.FILTER and w.spec["what"] == "port"]
    assert [(w["mac"], w["ipv4"], w["ipv6"], w["isolate"]) for w in walls] == [
        ("02:00:00:00:00:05", "10.77.0.5", "fd00:7::5", True),
        ("02:00:00:00:00:06", None, "fd00:8::6", False),
    ]


def test_published_ports_are_keyed_as_people_write_them() -> None:
    """An IPv6 host address stands in brackets."""
    keys = [want.key for want, _ in wants_of_vm() if want.kind == Kind.PUBLISH]
    assert keys == ["8080/tcp", "[2001:db8::1]:53/udp"]


def test_forwarding_is_accepted_once() -> None:
    """By nftables, or by the iptables backend's own rule, never by both."""
    nets = {n.id: n._replace(firewall="iptables") for n in (LAN, DMZ)}
    for networks, forwards in ((None, 0), (nets, 2)):
        specs = [w.spec for w, _ in wants_of_vm(networks) if w.kind == Kind.FILTER]
        assert sum(s["what"] == "forward" for s in specs) == forwards
        assert all(s["forward"] is (forwards == 0) for s in specs if s["what"] == "port")


def test_an_external_vm_has_no_directory_and_no_process() -> None:
    """Its `start` prepares the network and launches nothing."""
    kinds = {want.kind for want, _ in wants_of_vm(directory=None, process=False)}
    assert not kinds & {Kind.FILE, Kind.PROCESS}


def test_a_want_is_not_made_without_its_device() -> None:
    """One device for each interface, or nothing."""
    with pytest.raises(ValueError, match="zip"):
        provision.want_vm(
            VM, {LAN.id: LAN, DMZ.id: DMZ}, bridges={}, devices=[], directory=None, process=False
        )


def test_no_key_is_longer_than_a_mark_leaves_room_for() -> None:
    """Marks do not grow with keys: row number and nonce only."""
    assert len(make_mark("a" * 10, 1 << 62, os.urandom(10))) <= 64
