"""How our tables are built: what is declared is what the kernel is asked for and tells."""

from __future__ import annotations

import pytest

from hvtx.host import nftseen, nftshape
from hvtx.host.netlink import attribute, attribute_map, nested, text
from hvtx.host.nfanswers import Element, all_elements
from hvtx.host.nfmessages import add_element
from hvtx.host.nfnumbers import FAMILIES
from hvtx.host.nftshape import hook_words
from hvtx.model.hook import Hook, SetElement
from hvtx.rulesets.nftables_base import SKELETONS, hook_of
from hvtx.rulesets.nftables_elements import unplaced
from hvtx.rulesets.nftables_layout import PASSING

SPECS = [
    {"what": "network", "bridge": "br0", "isolate": False, "nat": True},
    {"what": "network", "bridge": "br1", "isolate": False, "nat": True, "uplink": "eth0"},
    *({"what": "masquerade", "address": one, "source": other}
      for one, other in (("10.77.0.3", "192.0.2.1"), ("fd77::3", "2001:db8::1"))),
    {"what": "port", "device": "hv0", "mac": "02:00:00:00:00:01", "isolate": True,
     "ipv4": "10.77.0.2", "ipv6": "fd77::2", "gateway6": "fd77::1",
     "forward": True, "bridge": "br0"},
    {"what": "port", "device": "hv1", "mac": "02:00:00:00:00:03", "isolate": False,
     "ipv4": "10.78.0.2", "bridge": "br1"},
    {"what": "masquerade", "address": "10.77.0.2"},
    {"what": "masquerade", "address": "fd77::2"},
    {"what": "publish", "protocol": "tcp", "host_port": 80, "guest_port": 8080,
     "ipv4": "10.77.0.2", "ipv6": "fd77::2"},
    {"what": "publish", "protocol": "udp", "host_port": 53, "guest_port": 53,
     "ipv4": "10.77.0.2", "host_ip": "192.0.2.1"},
    {"what": "publish", "protocol": "udp", "host_port": 53, "guest_port": 53,
     "ipv6": "fd77::2", "host_ip": "2001:db8::1"},
    *({"what": "egress", "bridge": "br0", "egress": "none", "alone": True, **whose,
       "rules": [["allow", "example.org"], *(
           [action, to, *ports] for action in ("allow", "deny")
           for to in ("10.0.0.0/8", "fd00::/8") for ports in ((), (80, 90, "tcp")))]}
      for whose in ({}, {"mac": "02:11:22:33:44:55"})),
]  # fmt: skip


def test_every_declared_hook_is_understood() -> None:
    for skeleton in SKELETONS.values():
        for chain in skeleton.chains:
            hook = hook_of(chain.hook)
            assert (hook is None) == (chain.hook == "")
            if hook is not None:
                assert f"{hook_words(hook)};" == chain.hook


@pytest.mark.parametrize("hook", [None, Hook("nat", 4, 100), Hook("filter", 0, -300, 0)])
def test_a_chain_is_read_as_it_is_made(hook: Hook | None) -> None:
    made = nftshape.new_chain("bridge", "hvtx-a", "guard", hook)
    body = bytes((FAMILIES["bridge"], 0, 0, 0)) + made.body
    assert nftshape._chain(body) == ("bridge", "hvtx-a", "guard", hook)


def test_devices_of_a_hook_are_told() -> None:
    inside = nested(
        4, attribute(1, bytes(4)), attribute(2, bytes(4)), nested(4, text(1, "a"), text(1, "b"))
    )
    body = bytes((5, 0, 0, 0)) + text(1, "t") + text(3, "c") + inside + text(7, "filter")
    found = nftshape._chain(body)[3]
    assert found is not None
    assert found.devices == ("a", "b")
    assert "device a, b" in hook_words(found)


def test_every_key_of_ours_has_words_that_nft_reads() -> None:
    seen = set()
    for spec in SPECS:
        for piece in unplaced(spec):
            seen.add((piece.family, piece.set))
            assert nftseen.spelt(piece.family, piece.set, piece.key), piece
    every = {(family, name) for family, one in SKELETONS.items() for name in one.sets}
    assert seen == every - PASSING


@pytest.mark.parametrize("key", [b"a b".ljust(16, b"\0"), b'a"'.ljust(16, b"\0"), bytes(40)])
def test_what_a_shell_or_nft_would_take_otherwise_has_none(key: bytes) -> None:
    assert nftseen.spelt("bridge", "ports", key) == ""
    assert nftseen.spelt("inet", "theirs", key) == ""


def test_the_number_of_flows_of_an_element_is_read() -> None:
    piece = SetElement("inet", "t", "flows_link", b"br0".ljust(16, b"\0"), flows=4096)
    body = bytes(4) + add_element(piece, "hvtx:1:a:1.b").body
    assert all_elements([body]) == [Element(piece.key, b"", "hvtx:1:a:1.b", 4096)]
    assert attribute_map(body, 4)
