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
    """The ports in their order; those that follow on each other, by both numbers, as one."""
    found: list[PortRange] = []
    for port in ports:
        if found:
            first, number = found[-1]
            if port == first._replace(
                host_port=first.host_port + number, guest_port=first.guest_port + number
            ):
                found[-1] = PortRange(first, number + 1)
                continue
        found.append(PortRange(port))
    return found
