"""What stands for the library: it remembers what it was asked, and does as it is told."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from hvtx.model.attachment import (
    Attached,
    AttachmentKey,
    AttachmentRequest,
    Collected,
    Kept,
    Missing,
)
from tests.cni.test_result import MADE


class StandIn:
    """``host.attachments``; a problem is raised by every call."""

    def __init__(self, problem: Exception | None = None) -> None:
        self.problem = problem
        self.settings: Mapping[str, str] = {}
        self.asked: list[tuple[str, object]] = []
        self.missing: tuple[Missing, ...] = ()
        self.attached: Attached | None = MADE
        self.kept: tuple[Kept, ...] = ()

    def opened(self, **settings: str) -> StandIn:
        """As the plugin opens the library."""
        self.settings = settings
        return self

    def _ask(self, verb: str, what: object) -> None:
        self.asked.append((verb, what))
        if self.problem is not None:
            raise self.problem

    def add(self, asked: AttachmentRequest, /) -> Attached:
        self._ask("add", asked)
        return MADE._replace(key=asked.key, netns=asked.netns)

    def delete(self, key: AttachmentKey, /) -> None:
        self._ask("delete", key)

    def check(self, asked: AttachmentRequest, /) -> tuple[Missing, ...]:
        self._ask("check", asked)
        return self.missing

    def show(self, key: AttachmentKey, /) -> Attached | None:
        self._ask("show", key)
        return self.attached

    def collect(self, network: str, valid: Collection[tuple[str, str]], /) -> Collected:
        self._ask("collect", (network, tuple(valid)))
        return Collected((), self.kept)

    def status(
        self,
        bridge_network: str,
        subnets: Sequence[str],
        mtu: int | None,
        /,
        *,
        nat: bool | None,
        isolate: bool | None,
        vm: bool,
    ) -> None:
        self._ask("status", (bridge_network, tuple(subnets), mtu, nat, isolate, vm))
