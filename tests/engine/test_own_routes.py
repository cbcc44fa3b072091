"""The routes of an address that are gone: not those that the kernel is about to make."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from hvtx.engine import own_routes
from hvtx.host import devroutes
from hvtx.model.resource import Kind, Resource, State
from hvtx.model.routing import LOCAL, MAIN

SUBNET, LOCALLY = ("fd77::/64", MAIN), ("fd77::1/128", LOCAL)
ROW = Resource(
    1, Kind.ADDRESS, "fd77::1/64", State.COMMITTED, "",
    {"address": "fd77::1/64", "device": "br", "ifindex": 7}, {}, 1, 1, None, None,
)  # fmt: skip


class Up:
    """A bridge that is up and in no VRF, as `Links` tells of it."""

    up, master = True, 0

    def get(self, **_: int) -> Up:
        return self


def asked(monkeypatch: pytest.MonkeyPatch, *answers: set[tuple[str, int]]) -> list[str]:
    """What is gone, where the kernel answers so, at last as it did before; the pauses are none."""
    told = itertools.chain(answers, itertools.repeat(answers[-1]))
    monkeypatch.setattr(devroutes, "of_device", lambda *_: next(told))
    monkeypatch.setattr(own_routes.time, "sleep", lambda _: None)
    links: Any = Up()
    return [route.prefix for route in own_routes.lost(ROW, links)]


def test_a_local_route_that_the_kernel_makes_late_is_not_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert asked(monkeypatch, {SUBNET}, {SUBNET}, {SUBNET, LOCALLY}) == []


def test_one_that_does_not_come_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert asked(monkeypatch, {SUBNET}) == ["fd77::1/128"]


def test_the_route_of_its_subnet_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert asked(monkeypatch, {LOCALLY}, {SUBNET, LOCALLY}) == ["fd77::/64"]
