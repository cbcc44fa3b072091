"""Ports side by side are told as one."""

from hvtx.model.port_range import PortRange, ranges
from hvtx.model.vm import Publish


def test_what_follows_on_each_other_is_one() -> None:
    ports = [Publish("tcp", None, n, n + 10) for n in (80, 81, 82, 90)]
    assert ranges(ports) == [PortRange(ports[0], 3), PortRange(ports[3])]
    assert [one.span(one.first.guest_port) for one in ranges(ports)] == ["90-92", "100"]


def test_in_whichever_order_they_came() -> None:
    """`vm set` puts what it publishes behind what there is."""
    one, other = Publish("tcp", None, 8080, 80), Publish("udp", None, 8003, 8003)
    ports = [Publish("tcp", None, n, n) for n in (8004, 8006, 8007, 8002, 8003, 8005, 8009)]
    assert ranges([one, *ports, other]) == [
        PortRange(one), PortRange(ports[3], 6), PortRange(ports[-1]), PortRange(other),
    ]  # fmt: skip


def test_what_differs_otherwise_is_not() -> None:
    first = Publish("tcp", None, 80, 80)
    for other in (
        Publish("udp", None, 81, 81),
        Publish("tcp", "127.0.0.1", 81, 81),
        Publish("tcp", None, 81, 82),
        Publish("tcp", None, 79, 78),
    ):
        assert ranges([first, other]) == [PortRange(first), PortRange(other)]
    assert ranges([]) == []
