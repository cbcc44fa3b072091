"""Network namespaces of others on the fake kernel: their ids, and veth pairs that lead into them."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from hvtx.host.veth import Pair, PeerAddress
from tests.fake.kernel import Kernel, Namespace

T = TypeVar("T")


class FakeIds:
    """``hvtx.host.nsid.NamespaceIds``."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def of(self, namespace: int) -> int | None:
        self._kernel.alive()
        return _numbered(self._kernel, namespace).nsid

    def give(self, namespace: int, wanted: int) -> int:
        self._kernel.alive()
        found = _numbered(self._kernel, namespace)
        if found.nsid is None:
            self._kernel.give_id(found, wanted)
        assert found.nsid is not None
        return found.nsid

    def there(self, wanted: Collection[int]) -> set[int]:
        self._kernel.alive()
        return set(wanted) & self._kernel.ids()

    def of_peer(self, ifindex: int, alias: str) -> int | None:
        self._kernel.alive()
        link = self._kernel.devices.get(ifindex)
        if link is None or link.alias != alias:
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
        holders = [one for one in self._kernel.namespaces.values() if ifindex in one.peers.values()]
        return holders[0].nsid if holders else -1


def _numbered(kernel: Kernel, number: int) -> Namespace:
    return next(one for one in kernel.namespaces.values() if one.number == number)


def doors(kernel: Kernel) -> dict[str, Any]:
    """What is put in place of the real thing, by dotted name."""

    @contextmanager
    def opened(path: str) -> Iterator[int]:
        kernel.alive()
        if path not in kernel.namespaces:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        yield kernel.namespaces[path].number

    def inside(namespace: int, work: Callable[[], T]) -> T:
        kernel.alive()
        kernel.inside = _numbered(kernel, namespace)
        try:
            return work()
        finally:
            kernel.inside = None

    @contextmanager
    def ids() -> Iterator[FakeIds]:
        kernel.alive()
        yield FakeIds(kernel)

    def cookies(wanted: Collection[int], ids: FakeIds) -> dict[int, int]:
        del ids
        kernel.alive()
        there = [one for one in kernel.namespaces.values() if one.nsid in wanted]
        return {one.nsid: one.number for one in there if one.nsid is not None}

    def create(pair: Pair, namespace: int, links: object) -> None:
        del links
        there = _numbered(kernel, namespace)
        if pair.peer in there.peers:
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))
        kernel.get(pair.master)
        kernel.add(
            pair.name, "veth", pair.ifindex,
            mac=pair.mac, master=pair.master, group=pair.group, mtu=pair.mtu,
        )  # fmt: skip
        there.peers[pair.peer] = pair.ifindex

    def delete(ifindex: int, links: object) -> None:
        del links
        kernel.delete(ifindex)

    def furnish(name: str, alias: str, addresses: Iterable[PeerAddress]) -> None:
        del alias, addresses
        kernel.alive()
        assert kernel.inside is not None
        if name not in kernel.inside.peers:
            raise OSError(errno.ENODEV, f"{name} is gone")

    def announce(name: str) -> None:
        kernel.alive()
        assert kernel.inside is not None
        assert name in kernel.inside.peers

    return {
        "hvtx.host.held_namespaces.cookies": cookies,
        "hvtx.host.network_namespace.opened": opened,
        "hvtx.host.network_namespace.is_own": lambda _: False,
        "hvtx.host.network_namespace.inside": inside,
        "hvtx.host.nsid.ids": ids,
        "hvtx.host.veth.announce": announce,
        "hvtx.host.veth.create": create,
        "hvtx.host.veth.delete": delete,
        "hvtx.host.veth.furnish": furnish,
    }
