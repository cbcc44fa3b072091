"""Whom VM processes run as."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import pytest

from hvtx.model.user import FIRST_ID, IDS, User, is_own, own_user

ONE = "abcdefghij"


class Seen(NamedTuple):
    """What is asked of a ``stat_result``."""

    st_mode: int
    st_uid: int
    st_gid: int


def test_no_two_vms_of_an_installation_share_a_user() -> None:
    """Numbers that follow each other, and where the range ends."""
    users = [own_user(ONE, number) for number in (*range(3000), IDS - 1)]
    assert len({user.uid for user in users}) == len(users)
    assert all(is_own(user.uid) and user.gid == user.uid and not user.groups for user in users)
    assert own_user(ONE, IDS).uid == own_user(ONE, 0).uid


def test_installations_begin_elsewhere() -> None:
    """Names that differ in their last letter only, and by what is kept in a record for ever."""
    letters = "abcdefghijklmnopqrstuvwxyz234567"
    begins = sorted(own_user(ONE[:-1] + letter, 0).uid for letter in letters)
    assert min(b - a for a, b in pairwise(begins)) > 100_000
    assert own_user(ONE, 7).uid == 1890901568


def test_the_range_is_the_one_that_nobody_uses() -> None:
    assert (FIRST_ID, FIRST_ID + IDS - 1) == (1879048192, 2147483647)
    assert not is_own(FIRST_ID - 1)
    assert not is_own(FIRST_ID + IDS)


@pytest.mark.parametrize(
    ("mode", "owner", "group", "may"),
    [
        (0o004, 1, 1, True), (0o440, 1, 1, False), (0o040, 1, 20, True), (0o040, 1, 30, True),
        (0o044, 10, 1, False), (0o404, 1, 20, False), (0o400, 10, 1, True),
    ],
)  # fmt: skip
def test_permission_bits_are_read_as_the_kernel_reads_them(
    mode: int, owner: int, group: int, may: bool
) -> None:
    """The owner's, else the group's, else the others': the first that fits, and no other."""
    assert User(10, 20, (30,)).may(mode, owner, group, 4) is may


@pytest.mark.parametrize(
    ("mode", "owner", "may"),
    [(0o755, 0, False), (0o555, 10, True), (0o777, 0, True), (0o1777, 0, False), (0o775, 0, False)],
)
def test_who_can_replace_what_is_in_a_directory(mode: int, owner: int, may: bool) -> None:
    assert User(10, 20).may_replace(Seen(0o40000 | mode, owner, 0)) is may


@pytest.mark.parametrize(
    ("user", "said"),
    [
        (
            User(10, 20, name="guests", home="/srv"),
            {"HOME": "/srv", "USER": "guests", "LOGNAME": "guests"},
        ),
        (User(10, 10, name="10"), {"HOME": "/"}),
        (own_user(ONE, 7), {"HOME": "/"}),
    ],
    ids=["named", "number", "own"],
)
def test_variables_say_who_it_is(user: User, said: dict[str, str]) -> None:
    """A number without an entry in passwd is no name."""
    assert user.environment == said
