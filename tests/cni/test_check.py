"""A runtime's record of an attachment, compared with the host's."""

from __future__ import annotations

from typing import Any

import pytest

from hvtx.cni.check import differences
from hvtx.cni.result import parse_previous, result
from hvtx.model.attachment import AttachmentRequest
from tests.cni.recorded import NETNS
from tests.cni.test_result import MADE

ASKED = AttachmentRequest(MADE.key, "lan", NETNS)


def found(told: dict[str, Any], made: Any = MADE) -> tuple[str, ...]:
    previous = parse_previous({"prevResult": told})
    assert previous is not None
    return differences(ASKED, made, previous)


@pytest.mark.parametrize("tap", [None, "tap1"])
@pytest.mark.parametrize("version", ["0.4.0", "1.0.0", "1.1.0"])
def test_what_was_answered_is_as_it_was(version: str, tap: str | None) -> None:
    made = MADE._replace(tap=tap, tap_mac=tap and "02:00:00:00:00:0c")
    assert found(result(version, NETNS, made, None, {}), made) == ()


def test_what_later_plugins_change_is_theirs() -> None:
    told = result("1.1.0", NETNS, MADE, None, {})
    told["interfaces"][1]["mac"] = "02:00:00:00:00:0B"
    told["interfaces"].append({"name": "eth1", "sandbox": NETNS})
    told["ips"].append({"interface": 3, "address": "192.0.2.7/24"})
    told["routes"] = []
    assert found(told) == ()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda told: told["interfaces"][0].update(name="other"), "hvbridge"),
        (lambda told: told["interfaces"][1].update(name="other"), "hvhost"),
        (lambda told: told["interfaces"][1].update(mac="02:00:00:00:00:09"), "02:00:00:00:00:09"),
        (lambda told: told["interfaces"][2].update(mac="02:00:00:00:00:ff"), "02:00:00:00:00:ff"),
        (lambda told: told["interfaces"][2].update(name="eth1"), "eth0"),
        (lambda told: told["interfaces"][2].update(sandbox="/run/other"), NETNS),
        (lambda told: told["ips"].pop(0), "10.77.0.2/24"),
        (lambda told: told["ips"][1].update(address="fd77::9/64"), "fd77::2/64"),
    ],
)
def test_another_adds_record_is_told(change: Any, words: str) -> None:
    told = result("1.1.0", NETNS, MADE, None, {})
    change(told)
    (sentence,) = found(told)
    assert sentence.startswith("prevResult")
    assert words in sentence


def test_a_tap_that_the_record_has_not_is_told() -> None:
    told = result("1.1.0", NETNS, MADE, None, {})
    (sentence,) = found(told, MADE._replace(tap="tap1"))
    assert "tap1" in sentence
