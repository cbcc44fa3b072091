"""The host as a snapshot sees it: links, addresses, firewalls; looked at once, corrected later.

The order of the looks is that of :mod:`hvtx.engine.snapshot`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager

from hvtx.drivers.base import OwnElements
from hvtx.engine import privileges
from hvtx.engine.registry import FIREWALLD, FIREWALLS
from hvtx.engine.runtime import Runtime
from hvtx.errors import Contended, HvtxError, NotPermitted, Refused
from hvtx.host.firewalld_zones import has_file
from hvtx.host.links import Links
from hvtx.host.netlink import DumpInterrupted, forbidden
from hvtx.host.xtnames import legacy_tables
from hvtx.model.resource import Address, Entry, Link
from hvtx.model.typed import Self
from hvtx.planner.recheck import Again, Seen

_FEW, _QUESTIONS = 64, 2  # devices that are asked for alone; of each, at least
_MARKING = 20  # looks at a new device, a millisecond apart


class SeenHost:
    """What was seen of the host, as later looks correct it."""

    def __init__(self, runtime: Runtime, *, bulk: bool) -> None:
        """Look at it; ``unread``: why the legacy tables may not be read, if so.

        ``bulk``: elements of our own sets are kept as bytes, and filters are looked at later.
        """
        self.failures: dict[str, str] = {}
        self.links: list[Link] = []
        self.addresses: list[Address] = []
        self.filtered: frozenset[int] = frozenset()
        self.entries: list[Entry] = []
        self.elements: OwnElements | None = None
        self._source = Links()
        self._bulk = bulk
        self._runtime = runtime
        try:
            self._look()
        except BaseException:
            self._source.close()
            raise

    def __enter__(self) -> Self:
        """Keep the socket open."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self._source.close()

    def _look(self) -> None:
        with self._links_listed():
            links, addresses = self._source.all(), self._source.addresses()
            self.filtered = frozenset() if self._bulk else self._source.filtered()
            self.links, self.addresses = links, addresses

        def observe(backend: str) -> Sequence[Entry]:
            if not self._bulk or backend != "nftables":
                return self._runtime.firewall(backend).observe()
            entries, self.elements = self._runtime.nftables().observe_bulk()
            return entries

        self.entries, self.unread = firewall_entries(self._runtime, self.failures, observe=observe)

    def look_at_filters(self, judged: Collection[int], spared: Collection[int]) -> None:
        """Look at traffic control of the devices that are ``judged`` (by index).

        A few of many are asked for one by one. Else all are listed, and it is not looked closely at
        ``spared``, of which nothing is concluded.
        """
        if not self._bulk or "links" in self.failures:
            return
        few = len(judged) <= _FEW and _QUESTIONS * len(judged) < len(self.links)
        try:
            if few:
                self.filtered = self._source.filtered_among(judged)
            else:
                self.filtered = self._source.filtered(spared=spared)
        except DumpInterrupted as problem:
            raise _unstable_links() from problem
        except OSError as problem:
            if forbidden(problem):
                raise _cannot_observe("the host's links") from problem
            raise Refused(
                "cannot-observe",
                f"the host's traffic control could not be listed: {problem}",
                hint="try again",
            ) from problem

    @contextmanager
    def _links_listed(self) -> Iterator[None]:
        try:
            yield
        except DumpInterrupted as problem:
            raise _unstable_links() from problem
        except OSError as problem:
            if forbidden(problem):
                raise _cannot_observe("the host's links") from problem
            self.failures["links"] = f"the links could not be listed: {problem}"

    @property
    def marks(self) -> set[str]:
        """The marks that anything carries."""
        found = {link.alias for link in self.links if link.alias}
        found |= {entry.mark for entry in self.entries if entry.mark}
        return found.union(self.elements.marks() if self.elements is not None else ())

    @property
    def seen(self) -> Seen:
        """What later looks are compared with."""
        return Seen(self.links, self.addresses, self.entries)


def look_again(runtime: Runtime, host: SeenHost, again: Again) -> None:
    """See once more what an operation moved, after the record; corrects ``host``.

    A device is asked for by its index. Of firewalls the backends are read again, and only what
    carries the marks is taken from that.
    """
    if (again.devices or again.addressed) and "links" not in host.failures:
        _look_at_links(host, again.devices, again.addressed)
    backends = again.backends - host.failures.keys()
    if backends:
        entries, _ = firewall_entries(runtime, host.failures, sorted(backends))
        host.entries = [
            *(e for e in host.entries if e.mark not in again.marks or e.backend not in backends),
            *(e for e in entries if e.mark in again.marks),
        ]


def _marked(source: Links, index: int) -> Link | None:
    """A device by its index; one that is not marked yet is waited for a little."""
    link = source.get(ifindex=index)
    for _ in range(_MARKING):
        if link is None or link.alias is not None:
            break
        time.sleep(0.001)
        link = source.get(ifindex=index)
    return link


def _look_at_links(host: SeenHost, devices: set[int], moved: set[int]) -> None:
    source = Links()
    try:
        found = {index: _marked(source, index) for index in devices}
        addresses = source.addresses() if moved else []
    except DumpInterrupted as problem:
        raise _unstable_links() from problem
    except OSError as problem:
        host.failures["links"] = f"the links could not be listed: {problem}"
        return
    finally:
        source.close()
    host.links = [link for link in host.links if link.ifindex not in devices]
    host.links += [link for link in found.values() if link is not None]
    host.addresses = [
        *(a for a in host.addresses if a.ifindex not in moved),
        *(a for a in addresses if a.ifindex in moved),
    ]


def _unstable_links() -> Refused:
    return Refused(
        "unstable-view",
        "the host's links changed too fast to be listed",
        hint="try again when fewer devices come and go",
    )


def firewall_entries(
    runtime: Runtime,
    failures: dict[str, str],
    backends: Iterable[str] | None = None,
    *,
    observe: Callable[[str], Iterable[Entry]] | None = None,
) -> tuple[list[Entry], NotPermitted | None]:
    """What the firewalls hold, and why this user may not read the legacy tables, if so.

    Who has no rule in legacy tables need not be allowed to read them: only others' rules are
    missing from the plan then. ``backends``: only these. ``observe`` reads a backend in another way
    than its driver.
    """
    found: list[Entry] = []
    unread: NotPermitted | None = None
    for backend in _there() if backends is None else backends:
        try:
            if backend == "iptables" and not legacy_tables():
                continue
            found += observe(backend) if observe else runtime.firewall(backend).observe()
        except NotPermitted as problem:
            if backend != "iptables":
                raise _cannot_observe("the host's firewall") from problem
            unread = privileges.legacy_problem() or problem
            failures[backend] = unread.message
        except Contended as problem:
            raise Refused(
                "unstable-view",
                f"the firewall changed too fast to be read: {problem.message}",
                hint="try again when no other program changes it",
            ) from problem
        except HvtxError as problem:
            failures[backend] = problem.message
        except OSError as problem:
            failures[backend] = f"{backend} could not be read: {problem}"
    return found, unread


def _there() -> tuple[str, ...]:
    """The backends, and firewalld where it has a zone of hvtx."""
    return (*FIREWALLS, FIREWALLD) if has_file() else FIREWALLS


def _cannot_observe(what: str) -> Refused:
    return Refused(
        "cannot-observe",
        f"{what} may not be read by this user: it needs the capability CAP_NET_ADMIN",
        hint="run hvtx as root, with sudo, or with that capability (docs/privileges.md)",
    )
