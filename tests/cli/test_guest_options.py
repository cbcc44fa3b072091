"""The options of a guest on the command line: which go together, and what takes one away."""

from __future__ import annotations

import pytest

from hvtx.cli.guest_options import taken_changes
from hvtx.errors import UsageError

NOTHING = {"queues": None, "user_data": None, "ssh_keys": (), "user": None}
KEPT = {"no_user_data": False, "no_ssh_key": False, "no_user": False}


def test_a_change_leaves_what_was_not_named() -> None:
    wanted = {"memory": 5, **NOTHING, **KEPT}
    assert taken_changes(wanted) == {**NOTHING, "ssh_keys": None}
    assert wanted == {"memory": 5}


def test_a_change_takes_away() -> None:
    assert taken_changes({**NOTHING, **dict.fromkeys(KEPT, True)}) == {
        "queues": None,
        "user_data": "",
        "ssh_keys": (),
        "user": "",
    }


@pytest.mark.parametrize(
    ("given", "no"),
    [({"user_data": "f"}, "no_user_data"), ({"ssh_keys": ("f",)}, "no_ssh_key"), ({"user": "u"}, "no_user")],
)  # fmt: skip
def test_both_are_refused(given: dict[str, object], no: str) -> None:
    with pytest.raises(UsageError, match="cannot be combined"):
        taken_changes({**NOTHING, **KEPT, **given, no: True})
