"""Once all ports of a slice are published it is looked for other installations, once for all."""

from __future__ import annotations

from typing import Any

import pytest

from hvtx.engine import launch_many
from hvtx.engine.launch_many import Launch, _look_again
from hvtx.errors import Conflict
from hvtx.model.vm import Interface, Publish, Vm

PORT = Publish("tcp", None, 8080, 80)


def launch(name: str, *ports: Publish) -> Launch:
    interface = Interface(0, "n", "net", "02:00:00:00:00:01", "10.77.0.2", None, ports)
    vm = Vm("id", name, "external", 1, 1, None, None, None, (), (), "", False, (interface,))
    runtime: Any = object()

    class Operation:
        def __init__(self) -> None:
            self.runtime = runtime

    operation: Any = Operation()
    means: Any = None
    return Launch(operation, vm, [], means)


@pytest.mark.parametrize("others", [(), ("another",)])
def test_ports_are_looked_for_where_another_installation_came(
    others: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It published meanwhile: whoever looks after it has published meets it."""
    looks, asked = [], []

    def look() -> tuple[str, ...]:
        looks.append(1)
        return others

    def refuses(runtime: object, ports: list[Publish]) -> None:
        asked.append(ports)
        raise Conflict("it is published by another installation")

    monkeypatch.setattr(launch_many, "refuse_others_ports", refuses)
    launches = [launch("a", PORT), launch("b", PORT._replace(host_port=9090))]
    _look_again(look, launches)
    assert looks == [1]
    for one in launches:
        if others:
            with pytest.raises(Conflict, match="another installation"):
                one.spawn()
        else:
            assert not one.peers
    assert len(asked) == len(others) * 2


def test_without_ports_nobody_looks() -> None:
    def look() -> tuple[str, ...]:
        raise AssertionError

    launches = [launch("a"), launch("b")]
    _look_again(look, launches)
    assert not any(one.peers for one in launches)


def test_who_was_not_looked_for_is_looked_for() -> None:
    """A start that has not come to the look of all takes nothing for granted."""
    assert launch("a", PORT).peers
