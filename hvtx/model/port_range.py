"""Published ports side by side, as one: for people to read."""

from __future__ import annotations

from collections.abc import Iterable

from hvtx.model.typed import NamedTuple
from hvtx.model.vm import Publish


class PortRange(NamedTuple):
    """``number`` ports from ``first`` on, of host and guest alike."""

    first: Publish
    number: int = 1

    def span(self, port: int) -> str:
        """``8080`` or ``8000-8010``, from one of the first port's numbers."""
        return str(port) if self.number == 1 else f"{port}-{port + self.number - 1}"


def ranges(ports: Iterable[Publish]) -> list[PortRange]:
    """The ports in their order; those that follow on each other, by both numbers, as one.

    Wherever they stand: `vm set` puts what it publishes behind what there is.
    """
    listed = list(ports)
    left = dict.fromkeys(listed)
    found: list[PortRange] = []
    for port in listed:
        if port not in left or _beside(port, -1) in left:
            continue  # part of a range that is told, or of one that begins further down
        number = 0
        while (there := _beside(port, number)) in left:
            del left[there]
            number += 1
        found.append(PortRange(port, number))
    return found


def _beside(port: Publish, number: int) -> Publish:
    """The port ``number`` further on, of host and guest."""
    return port._replace(host_port=port.host_port + number, guest_port=port.guest_port + number)
