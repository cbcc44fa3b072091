"""`explain` never says other than the plan, whatever is asked of whatever host."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hvtx.model.foreign_rule import ForeignRule
from hvtx.model.place import parse_place
from hvtx.model.plan import Plan
from hvtx.planner.identify import identify
from hvtx.planner.known_software import looks_like
from hvtx.planner.subjects import ExplainFacts, owner_of
from tests.planner.scene import Scene, link, mark
from tests.planner.test_properties import scenes

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


def test_a_port_of_a_bridge_looks_like_the_bridge() -> None:
    """A device without a telling name is likened by the bridge that it is in."""
    (subject,) = identify(_SEEN, "veth0000001")
    assert "Docker" in subject.words
    assert subject.evidence[1] == "a port of docker0"
