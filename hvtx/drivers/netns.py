"""Network namespaces of others, as evidence: an id is given to one, and nothing is removed.

The id (RTM_NEWNSID) tells for as long as this host's namespace lives whether the other one does
(:mod:`hvtx.host.nsid`). One that the kernel had given already is recorded instead: gone it proves
the same. The path is opened here and never looked at again.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import partial

from hvtx.drivers.base import Host
from hvtx.errors import Contended, HostRefused, HvtxError, NotFound, NotPermitted, UsageError
from hvtx.host import network_namespace, nsid
from hvtx.host.links import Links
from hvtx.model.container import NO_NAMESPACE, netns_spec
from hvtx.model.resource import GONE, Link, Outcome, Resource
from hvtx.model.typed import Any, NamedTuple


class NetnsDriver:
    """Gives namespaces their ids (``NetnsSpec``)."""

    def __init__(self, host: Host) -> None:
        """Work in the network namespace of the calling thread."""
        del host

    def create(self, resources: Sequence[Resource]) -> Mapping[int, dict[str, Any]]:
        """Give each namespace its id; returns ``{"nsid"}`` each."""
        with nsid.ids() as ids:
            return {row.id: self._create(row, ids) for row in resources}

    def _create(self, row: Resource, ids: nsid.NamespaceIds) -> dict[str, Any]:
        spec = netns_spec(row)
        try:
            with _of_others(spec["path"]) as namespace:
                known = ids.give(namespace, spec["nsid"])
        except OSError as problem:
            raise refused(spec["path"], problem) from problem
        if known != spec["nsid"]:
            raise Contended(
                f"the network namespace {spec['path']} was given an id by somebody else meanwhile",
                hint="try again",
            )
        return {"nsid": known}

    def release(self, resources: Sequence[Resource]) -> Mapping[int, Outcome]:
        """Nothing: the namespace is its runtime's, and its id goes with it."""
        return {row.id: GONE for row in resources}


@contextmanager
def _of_others(path: str) -> Iterator[int]:
    """An open network namespace that is not hvtx's own. Raises UsageError, OSError.

    In its own the peer would be one more interface of the host, with a guest's address and routes.
    """
    with network_namespace.opened(path) as namespace:
        if network_namespace.is_own(namespace):
            raise UsageError(
                f"{path} is the network namespace that hvtx works in, not a container's",
                hint="give the path of the container's (CNI_NETNS); one that shares the host's"
                " network needs no interface",
                code=NO_NAMESPACE,
            )
        yield namespace


def refused(path: str, problem: OSError) -> HvtxError:
    """What it means that a namespace could not be opened, or given an id (pure)."""
    again = "give the path of a network namespace that exists (CNI_NETNS)"
    if problem.errno in (errno.ENOENT, errno.ENOTDIR):
        return NotFound(f"there is no network namespace {path}", hint=again, code=NO_NAMESPACE)
    if problem.errno in (errno.ENOTTY, errno.EINVAL, errno.ENXIO, errno.ELOOP, errno.EISDIR):
        return NotFound(f"{path} is no network namespace", hint=again, code=NO_NAMESPACE)
    if problem.errno in (errno.EPERM, errno.EACCES):
        return NotPermitted(
            f"not permitted to work in the network namespace {path}",
            hint="run hvtx as root (CAP_NET_ADMIN, CAP_SYS_ADMIN)",
        )
    if problem.errno == errno.ENOSPC:  # the id is another namespace's
        return Contended(f"the id chosen for {path} is taken: {problem}", hint="try again")
    return HostRefused(f"the kernel refused the network namespace {path}: {problem}")


class Inside(NamedTuple):
    """What was seen of an interface in a namespace."""

    nsid: int | None  # of the namespace; None where it has none
    link: Link | None
    tap: Link | None  # the TAP device that was asked for, too
    joined: bool  # whether the two are one wire
    addresses: frozenset[str]  # with prefix lengths
    worlds: frozenset[int]  # the families of which the namespace has a default route, by any device


def look_inside(path: str, interface: str, tap: str | None = None) -> Inside:
    """An interface in the namespace at a path, and a TAP device beside it.

    Raises NotFound, NotPermitted, HostRefused.
    """
    try:
        with nsid.ids() as ids, network_namespace.opened(path) as namespace:
            seen = network_namespace.inside(namespace, partial(_look, interface, tap))
            return Inside(ids.of(namespace), *seen)
    except OSError as problem:
        raise refused(path, problem) from problem


_Looked = tuple[Link | None, Link | None, bool, frozenset[str], frozenset[int]]


def _look(interface: str, tap: str | None) -> _Looked:
    """In a thread that is inside: all of ``Inside`` but its first. Raises OSError."""
    from hvtx.host import devroutes, redirect  # CHECK alone looks inside

    worlds = frozenset(family for family in (4, 6) if devroutes.has_default(family))
    with closing(Links()) as links:
        beside = None if tap is None else links.get(name=tap)
        seen = links.get(name=interface)
        if seen is None:
            return None, beside, False, frozenset(), worlds
        joined = beside is not None and redirect.are_joined(seen.ifindex, beside.ifindex, links)
        own = frozenset(one.address for one in links.addresses(seen.ifindex))
        return seen, beside, joined, own, worlds


def known_id(path: str) -> int | None:
    """The id that the namespace at a path has already; None where it has none yet.

    Raises NotFound, UsageError (hvtx's own), NotPermitted, HostRefused.
    """
    try:
        with nsid.ids() as ids, _of_others(path) as namespace:
            return ids.of(namespace)
    except OSError as problem:
        raise refused(path, problem) from problem
