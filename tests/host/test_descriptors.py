"""How many descriptors are left is told before anything is made."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from hvtx.errors import HostRefused
from hvtx.host import descriptors, libnftables


@pytest.fixture
def used() -> Iterator[int]:
    """How many are taken; the limits are put back."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield len(os.listdir("/proc/self/fd")) - 1
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_who_has_enough_changes_nothing(used: int) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 40, hard))
    before = os.listdir("/proc/self/fd")
    descriptors.need(40)
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (used + 40, hard)
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize("told", [True, False])
def test_each_descriptor_counts(used: int, told: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the kernel tells their number, or only lists them, as before Linux 6.2."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 40, hard))
    with monkeypatch.context() as patched:
        if not told:
            patched.setattr(os, "stat", lambda path: os.stat_result([0] * 10))
        descriptors.need(40)
        enough = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        descriptors.need(41)
        raised = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert enough == used + 40
    assert raised > used + 40


def test_the_soft_limit_is_raised_to_the_usual_one(used: int) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (used, hard))
    descriptors.need(40)
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == min(descriptors.USUAL, hard)


def test_who_may_not_have_enough_is_refused(used: int) -> None:
    before = os.listdir("/proc/self/fd")
    with pytest.raises(HostRefused) as refused:
        descriptors.need(used + descriptors.USUAL + resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    assert "ulimit -n" in str(refused.value.hint)
    assert os.listdir("/proc/self/fd") == before


def test_one_port_is_told_as_one(used: int) -> None:
    """And where none is left, that none can be published."""
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (used + 20, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    )
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with pytest.raises(HostRefused) as refused, descriptors.room_for_ports(1, hard):
        pass
    assert f"1 published port is held by {hard} sockets" in str(refused.value)
    assert str(refused.value.hint).endswith("or publish none; nothing was done")


def test_low_numbers_are_left_where_many_are_opened(used: int) -> None:
    """Who waits by select(2) can use no number from 1024 on."""
    with ExitStack() as opened:
        with descriptors.room_for_ports(450, 900):
            inside = opened.enter_context(open(os.devnull))
        numbers = [opened.enter_context(open(os.devnull)).fileno() for _ in range(60)]
        assert max(numbers) < inside.fileno() < descriptors.SELECTED


def test_few_take_the_next_ones(used: int) -> None:
    before = os.listdir("/proc/self/fd")
    with descriptors.room_for_ports(5, 10):
        assert os.listdir("/proc/self/fd") == before


def test_libnftables_is_not_asked_with_a_number_that_it_cannot_use(used: int) -> None:
    """The C library would end the process."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard < 2000 or os.geteuid() != 0:
        pytest.skip("needs more open files than are usual, and root")
    resource.setrlimit(resource.RLIMIT_NOFILE, (2000, hard))
    with ExitStack() as opened:
        for _ in range(descriptors.SELECTED):
            opened.enter_context(open(os.devnull))
        with pytest.raises(HostRefused, match="fewer than 1024"):
            libnftables._need_netlink()
