"""Once all ports of a slice are published it is looked for other installations, once for all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from hvtx.engine.launching import _look_again
from hvtx.engine.vm_launch import Launch, Means
from hvtx.errors import Conflict
from hvtx.model.vm import Interface, Publish, Vm

PORT = Publish("tcp", None, 8080, 80)


class Peers:
    """Other installations, which publish whatever they are asked for."""

    def __init__(self, *others: str) -> None:
        self.there = frozenset(others)
        self.looks = 0
        self.asked: list[Sequence[Publish]] = []

    def others(self) -> frozenset[str]:
        self.looks += 1
        return self.there

    def refuse_published(self, ports: Sequence[Publish]) -> None:
        self.asked.append(ports)
        raise Conflict("it is published by another installation")


def launch(peers: Any, name: str, *ports: Publish) -> Launch:
    interface = Interface(0, "n", "net", "02:00:00:00:00:01", "10.77.0.2", None, ports)
    vm = Vm("id", name, "external", 1, 1, None, None, None, (), (), "", False, (interface,))
    nothing: Any = None
    means = Means(nothing, peers, None, None, None, None, "", "")
    return Launch(nothing, vm, [], means)


@pytest.mark.parametrize("others", [(), ("another",)])
def test_ports_are_looked_for_where_another_installation_came(others: tuple[str, ...]) -> None:
    """It published meanwhile: whoever looks after it has published meets it."""
    peers = Peers(*others)
    launches = [launch(peers, "a", PORT), launch(peers, "b", PORT._replace(host_port=9090))]
    _look_again(launches)
    assert peers.looks == 1
    for one in launches:
        if others:
            with pytest.raises(Conflict, match="another installation"):
                one.spawn()
        else:
            assert not one.peers
    assert len(peers.asked) == len(others) * 2


def test_without_ports_nobody_looks() -> None:
    peers = Peers("another")
    launches = [launch(peers, "a"), launch(peers, "b")]
    _look_again(launches)
    assert not any(one.peers for one in launches)
    assert peers.looks == 0


def test_who_was_not_looked_for_is_looked_for() -> None:
    """A start that has not come to the look of all takes nothing for granted."""
    assert launch(Peers(), "a", PORT).peers
