"""Published ports side by side, as one: for people to read."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from hvtx.model.vm import Publish


class PortRange(NamedTuple):
    """``count`` ports from ``first`` on, of host and guest alike."""

    first: Publish
    count: int = 1

    def span(self, port: int) -> str:
        """``8080`` or ``8000-8010``, from one of the first port's numbers."""
        return str(port) if self.count == 1 else f"{port}-{port + self.count - 1}"


def ranges(ports: Iterable[Publish]) -> list[PortRange]:
    """The ports in their order; those that follow on each other, by both numbers, as one."""
    found: list[PortRange] = []
    for port in ports:
        if found:
            first, count = found[-1]
            if port == first._replace(
                host_port=first.host_port + count, guest_port=first.guest_port + count
            ):
                found[-1] = PortRange(first, count + 1)
                continue
        found.append(PortRange(port))
    return found
