"""What was asked for by keyword is what the command line would have made of its options."""

from __future__ import annotations

from typing import Any

import pytest

from hvtx import UsageError
from hvtx.api.vms import policy_change, requested


def test_options_are_those_of_the_command_line() -> None:
    asked = requested(
        "web",
        {
            "networks": ["lab"],
            "publish": ["8080:80", "53:53/udp"],
            "memory": 512,
            "queues": 2,
            "user": "vmrunner",
            "egress": "internet",
            "allow": ["10.1.0.0/16:443"],
            "limit": "in=1mbit",
        },
    )
    assert (asked.name, asked.hypervisor, asked.networks) == ("web", "qemu", ("lab",))
    assert [(p.protocol, p.host_port, p.guest_port) for p in asked.publish] == [
        ("tcp", 8080, 80), ("udp", 53, 53),
    ]  # fmt: skip
    assert (asked.memory, asked.guest.queues, asked.guest.user) == (512, 2, "vmrunner")
    assert (asked.policy.egress, len(asked.policy.rules)) == ("internet", 1)
    assert any(asked.limits)


def test_what_was_left_out_or_is_none_is_the_default() -> None:
    nothing: Any = {
        "queues": None,
        "user": None,
        "ssh_keys": (),
        "egress": None,
        "hypervisor": None,
    }
    assert requested("web", nothing) == requested("web", {})


@pytest.mark.parametrize("field", ["publish", "networks", "command", "disks", "allow", "ssh_keys"])
def test_one_text_in_the_place_of_several_is_refused(field: str) -> None:
    wrong: Any = {field: "8080:80"}
    with pytest.raises(UsageError, match=f"{field} is one text") as caught:
        requested("web", wrong)
    assert f"{field}=['8080:80']" in str(caught.value.hint)


def test_an_option_that_is_none_at_all_is_a_mistake_of_the_program() -> None:
    wrong: Any = {"colour": "red"}
    with pytest.raises(TypeError, match="colour"):
        requested("web", wrong)


def test_a_change_of_reach_is_told_from_none() -> None:
    assert policy_change({"memory": 1}) is None
    assert policy_change({"egress": None, "allow": (), "deny": (), "no_rules": False}) is None
    taken = policy_change({"egress": ""})
    assert (taken.egress, taken.clear) == ("", False)
    cleared = policy_change({"no_rules": True})
    assert (cleared.egress, cleared.clear) == (None, True)
