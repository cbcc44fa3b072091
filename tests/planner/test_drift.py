"""What others changed of a device's settings, and what is put back."""

from __future__ import annotations

import pytest

from hvtx.model.link_settings import LinkSettings
from hvtx.planner.drift import WantedSettings, drift

PORT = {
    "state": 3, "isolated": 0, "learning": 1, "flood": 1, "mcast_flood": 1, "bcast_flood": 1,
    "hairpin": 1, "neigh_suppress": 0, "mcast_router": 1,
}  # fmt: skip
APART = {**PORT, "mcast_flood": 0, "bcast_flood": 0, "mcast_router": 0}
BRIDGE = {"stp_state": 0, "ageing_time": 30_000, "group_fwd_mask": 0, "no_linklocal_learn": 1}
TAP = LinkSettings(1, arp=True, carrier=True, port=PORT, bridge={})
OURS = LinkSettings(1, arp=True, carrier=True, port={}, bridge=BRIDGE)


def test_a_device_as_it_was_made_lacks_nothing() -> None:
    assert drift(TAP, bridge=False) == WantedSettings()
    assert drift(TAP._replace(port=APART), bridge=False, apart=True) == WantedSettings()
    assert drift(OURS, bridge=True) == WantedSettings()


@pytest.mark.parametrize(
    ("flag", "value", "words"),
    [
        ("isolated", 1, "its port flag isolated was on"),
        ("learning", 0, "its port flag learning was off"),
        ("flood", 0, "its port flag flood was off"),
        ("mcast_flood", 0, "its port flag mcast_flood was off"),
        ("hairpin", 0, "its port flag hairpin was off"),
        ("neigh_suppress", 1, "its port flag neigh_suppress was on"),
    ],
)
def test_a_flag_of_a_port(flag: str, value: int, words: str) -> None:
    seen = TAP._replace(port={**PORT, flag: value})
    assert drift(seen, bridge=False) == WantedSettings((words,), port={flag: 1 - value})


@pytest.mark.parametrize("flag", ["mcast_flood", "bcast_flood"])
def test_ports_kept_apart_flood_nothing(flag: str) -> None:
    found = drift(TAP._replace(port={**APART, flag: 1}), bridge=False, apart=True)
    assert found == WantedSettings((f"its port flag {flag} was on",), port={flag: 0})
    assert drift(TAP._replace(port=APART), bridge=False).port == {
        "mcast_flood": 1, "bcast_flood": 1,
    }  # fmt: skip


def test_the_state_of_a_port_counts_while_its_guest_is_there() -> None:
    off = TAP._replace(port={**PORT, "state": 0})
    assert drift(off, bridge=False) == WantedSettings(
        ("its port state was disabled",), port={"state": 3}
    )
    assert drift(off._replace(carrier=False), bridge=False) == WantedSettings()


@pytest.mark.parametrize(("mode", "name"), [(0, "eui64"), (2, "stable_secret"), (3, "random")])
def test_addrgenmode(mode: int, name: str) -> None:
    words = (f"its addrgenmode was {name}",)
    assert drift(TAP._replace(addrgenmode=mode), bridge=False) == WantedSettings(words, silent=True)
    assert drift(OURS._replace(addrgenmode=mode), bridge=True) == WantedSettings(words, silent=True)


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [("stp_state", 1, 0), ("ageing_time", 0, 30_000), ("group_fwd_mask", 8, 0),
     ("no_linklocal_learn", 0, 1)],
)  # fmt: skip
def test_settings_of_a_bridge(name: str, value: int, wanted: int) -> None:
    found = drift(OURS._replace(bridge={**BRIDGE, name: value}), bridge=True)
    assert found == WantedSettings((f"its {name} was {value}",), bridge={name: wanted})


def test_what_is_an_administrators_stays() -> None:
    assert (
        drift(OURS._replace(bridge={**BRIDGE, "ageing_time": 60_000}), bridge=True)
        == WantedSettings()
    )
    assert drift(OURS._replace(arp=False), bridge=True) == WantedSettings(
        ("its ARP was off",), arp=True
    )


def test_what_the_kernel_does_not_name_is_not_judged() -> None:
    assert drift(LinkSettings(None, True, True, {}, {}), bridge=False) == WantedSettings()
    assert drift(LinkSettings(None, True, True, {}, {}), bridge=True) == WantedSettings()


def test_a_queue_of_no_frame_is_made_longer_and_others_are_a_matter_of_taste() -> None:
    found = drift(TAP._replace(txqueuelen=0), bridge=False)
    assert found == WantedSettings(
        ("its txqueuelen was 0: no frame came to its guest",), queue=1000
    )
    for length in (None, 1, 100, 1000):
        assert drift(TAP._replace(txqueuelen=length), bridge=False) == WantedSettings()
    assert drift(OURS._replace(txqueuelen=0), bridge=True) == WantedSettings()  # it has no queue
