"""`explain` never says other than the plan, whatever is asked of whatever host."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hvtx.model.foreign_rule import ForeignRule
from hvtx.model.place import parse_place
from hvtx.model.plan import Plan
from hvtx.model.resource import Address, Kind
from hvtx.model.vm import Attachment, Vm
from hvtx.planner.identify import ambiguous, identify
from hvtx.planner.known_software import looks_like
from hvtx.planner.subjects import ExplainFacts, owner_of
from tests.planner.scene import Scene, link, mark
from tests.planner.test_properties import scenes
from tests.planner.test_provision import LAN

RULES = (
    ForeignRule(
        "nftables",
        parse_place("nft ip nat DOCKER"),
        "-p tcp --dport 80 -j DNAT --to-destination 10.0.0.2:80",
        None,
        "r",
        1,
    ),
    ForeignRule(
        "nftables",
        parse_place("nft inet filter input"),
        "tcp dport 22 accept",
        None,
        "r",
        1,
        native="tcp dport 22 accept",
    ),
    ForeignRule(
        "iptables",
        parse_place("iptables nat POSTROUTING"),
        "-s 10.77.0.0/24 -j MASQUERADE",
        mark(99),
        "r",
        2,
    ),
)
PLACES = tuple(map(parse_place, ("nft ip nat", "nft ip nat DOCKER", "nft inet filter", "iptables nat", "iptables nat POSTROUTING",
          "nft inet hvtx-aaaaaaaaaa", "nft inet hvtx-bbbbbbbbbb dnat")))  # fmt: skip


def sight(scene: Scene) -> ExplainFacts:
    plan: Plan = scene.plan(everything=True)
    return ExplainFacts(
        scene.snapshot(), plan, (), (), RULES, PLACES, frozenset({("tcp", "0.0.0.0", 22)})
    )


@settings(max_examples=60, deadline=None)
@given(scenes())
def test_what_a_plan_names_is_found_and_judged_alike(scene: Scene) -> None:
    """Every item by its mark; every device and marked thing by its name: gc's own verdict."""
    seen = sight(scene)
    for item in seen.plan.items:
        if item.mark:
            judged = [s.item for s in identify(seen, item.mark)]
            assert item in judged, item
        if item.kind in ("tap", "bridge"):
            subjects = identify(seen, item.key)
            assert subjects, item
            assert subjects[0].item is not None
            assert subjects[0].item.key == item.key or subjects[0].item.link == item.link


PIECES = [
    "hvtx:1:",
    "aaaaaaaaaa",
    "nft",
    "ip",
    "nat",
    "DOCKER",
    "10.77.0",
    "/24",
    ":80",
    "/tcp",
    "fe:00",
    "::",
    " ",
    "-t",
    "-A",
]


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(max_size=30), st.lists(st.sampled_from(PIECES), max_size=6).map("".join)))
def test_any_question_has_an_answer_or_none(text: str) -> None:
    """No text makes it stumble, and whatever it finds has words, an owner and a reason."""
    for subject in identify(_SEEN, text):
        assert subject.kind
        assert subject.words or subject.item
        assert subject.owner in ("hvtx", "foreign", "other-installation", "unknown")
        assert subject.item is None or subject.owner == owner_of(subject.item.reason)


def _busy() -> ExplainFacts:
    scene = Scene()
    network = scene.network()
    vm = scene.vm()
    bridge, _ = scene.bridge_with_address(network=network)
    scene.links.append(link(3, "docker0", "bridge"))
    scene.links.append(link(4, "veth0000001", "veth", master=3))
    scene.show(bridge)
    assert vm
    return sight(scene)


_SEEN = _busy()


@pytest.mark.parametrize(
    ("name", "whose"),
    [
        ("docker0", "Docker's"), ("br-0123456789ab", "Docker's"), ("veth3f2a91c", "Docker's"), ("br-lan", None),
        ("virbr0", "libvirt's"), ("vnet12", "libvirt's"), ("vnet", None), ("eth0", None), ("veth-mine", None),
        ("podman0", "Podman's"), ("tap103i0", "Proxmox's"), ("tap1a2b3c4d-5e", "OpenStack's"),
        ("DOCKER-USER", "Docker's"), ("LIBVIRT_PRT", "libvirt's"), ("f2b-sshd", "fail2ban's"), ("ufw-user-input", "ufw's"),
        ("KUBE-SVC-X", "a Kubernetes plugin's"), ("FWDI_public", "firewalld's"), ("wg0", "WireGuard's"), ("INPUT", None),
    ],
)  # fmt: skip
def test_likenesses(name: str, whose: str | None) -> None:
    assert looks_like(name) == whose


# -- addresses of one device -------------------------------------------------------------------------


def _twice() -> ExplainFacts:
    """A bridge of ours and a stranger's device with the same link-local address, and another."""
    scene = Scene()
    bridge = scene.row(Kind.BRIDGE, network=scene.network())
    for address in ("fe80::1/64", "fd77::1/64"):
        scene.show(scene.row(
            Kind.ADDRESS, device=bridge.key, ifindex=bridge.spec["ifindex"], owner=bridge.mark,
            address=address, bridge=bridge.key,
        ))  # fmt: skip
    scene.show(bridge)
    scene.links += [link(7, "eth0", "", altnames=("enp1s0",)), link(8, "eth1", "")]
    scene.addresses += [Address(7, "fe80::1/64"), Address(8, "fe80::2/64")]
    return sight(scene)._replace(networks=(LAN._replace(name="lan", bridge=bridge.key),))


@pytest.mark.parametrize(
    ("text", "owner", "words"),
    [
        ("fe80::1", "hvtx", ""), ("fe80::1%hvbr10", "hvtx", ""), ("[fe80::1%1010]", "hvtx", ""),
        ("fe80::1%eth0", "foreign", "an address of eth0"),
        ("fe80::1%enp1s0", "foreign", "an address of eth0"),
        ("fe80::1%7", "foreign", "an address of eth0"),
        ("fe80::1%eth1", "foreign", "in the subnet of eth1, and not an address of this host"),
        ("fe80::2%hvbr10", "foreign", "in the subnet of hvbr10, and not an address of this host"),
    ],
)  # fmt: skip
def test_a_link_local_address_is_that_of_the_device_behind_it(
    text: str, owner: str, words: str
) -> None:
    (subject,) = identify(_twice(), text)
    assert (subject.owner, subject.kind) == (owner, "address")
    assert words in subject.words
    assert not [line for line in subject.evidence if "'%'" in line]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("fe80::1%eth9", "'eth9' behind '%' is no device of this host"),
        ("fd77::1%lan", "'lan' behind '%' is no device of this host; the bridge of network 'lan' is hvbr10"),
        ("fe80::1%lan", "'lan' behind '%' is no device of this host; the bridge of network 'lan' is hvbr10"),
        ("fd77::1%eth0", "'eth0' behind '%' says nothing: only fe80::/10 is another on each device"),
        ("[fd77::1%eth9]:80", "'eth9' behind '%' is no device of this host"),
    ],
)  # fmt: skip
def test_a_zone_that_decides_nothing_is_told(text: str, told: str) -> None:
    """The answer is the one without it."""
    (subject,) = identify(_twice(), text)
    assert subject.evidence[0] == told
    (bare,) = identify(_twice(), text.replace("%" + text.partition("%")[2].partition("]")[0], ""))
    assert subject._replace(evidence=subject.evidence[1:]) == bare


def test_a_published_port_is_found_by_its_address_with_a_zone() -> None:
    scene = Scene()
    port = scene.row(Kind.PUBLISH, vm=scene.vm(), host_port=80, host_ip="fd77::1", protocol="tcp")
    (subject,) = identify(sight(scene), "[fd77::1%lan]:80")
    assert subject.row == port


def _attached(name: str, container: str, **more: str) -> Vm:
    return Vm(
        id=f"id-{name}", name=name, hypervisor="cni", memory=0, cpus=0, kernel=None, initrd=None,
        append=None, disks=(), command=(), directory="/", autostart=False, interfaces=(),
        attachment=Attachment("podnet", container, "eth0", "/run/netns/x", **more),
    )  # fmt: skip


def _containers(*vms: Vm) -> ExplainFacts:
    scene = Scene()
    for vm in vms:
        scene.vm(vm.name)
    return sight(scene)._replace(vms=vms)


_ONE, _OTHER = "0123456789ab" + "c" * 52, "0123456789ab" + "d" * 52


@pytest.mark.parametrize(
    ("text", "found", "several"),
    [
        (_ONE, ["cni-a"], []), (_ONE[:13], ["cni-a"], []), (_OTHER[:63], ["cni-b"], []),
        (_ONE[:12], [], [_ONE, _OTHER]), (_ONE[:11], [], []), (_ONE[1:13], [], []),
        (_ONE + "c", [], []), ("", [], []), ("feedfeedfeed", ["cni-c", "feedfeedfeed"], []),
    ],
)  # fmt: skip
def test_a_shortened_id_names_the_container_that_alone_has_it(
    text: str, found: list[str], several: list[str]
) -> None:
    """12 digits, as podman, crictl and docker print them; what is wholly called so goes first."""
    seen = _containers(
        _attached("cni-a", _ONE), _attached("cni-b", _OTHER), _attached("cni-c", "feedfeedfeed1"),
        _attached("feedfeedfeed", "5" * 64),
    )  # fmt: skip
    assert [subject.vm for subject in identify(seen, text) if subject.kind == "vm"] == found
    assert ambiguous(seen, text) == several


def test_both_interfaces_of_a_container_are_found_by_its_shortened_id() -> None:
    vms = [_attached("cni-a", _ONE), _attached("cni-b", _ONE)]
    assert {subject.vm for subject in identify(_containers(*vms), _ONE[:12])} == {"cni-a", "cni-b"}


def test_a_name_goes_before_the_beginnings_of_ids() -> None:
    vms = [_attached("cni-a", _ONE), _attached("cni-b", _OTHER), _attached(_ONE[:12], "5" * 64)]
    assert ambiguous(_containers(*vms), _ONE[:12]) == []


def test_a_port_of_a_bridge_looks_like_the_bridge() -> None:
    """A device without a telling name is likened by the bridge that it is in."""
    (subject,) = identify(_SEEN, "veth0000001")
    assert "Docker" in subject.words
    assert subject.evidence[1] == "a port of docker0"


# -- marks -------------------------------------------------------------------------------------------


def test_an_address_is_called_by_the_mark_of_its_bridge() -> None:
    """The bridge first; the mark of the address's own row, which earlier versions told, names it."""
    scene = Scene()
    bridge, address = scene.bridge_with_address(network=scene.network())
    scene.show(bridge, address)
    seen = sight(scene)
    marks = {item.kind: item.mark for item in seen.plan.items if item.row}
    assert marks == {"bridge": bridge.mark, "address": bridge.mark}
    assert address.mark != bridge.mark
    assert [s.kind for s in identify(seen, bridge.mark)] == ["bridge", "address"]
    assert [s.key for s in identify(seen, address.mark)] == [address.key]
