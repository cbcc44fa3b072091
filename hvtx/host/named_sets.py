"""A network's table of names: whether it is there, what is in it, and its batches.

It is written by nft's own parser (:mod:`hvtx.host.libnftables`), since it is made when a dnsmasq
starts, and read by it once it is known to be there.
"""

from __future__ import annotations

import errno
import json
from contextlib import closing

from hvtx.errors import HostRefused, NotPermitted
from hvtx.host import libnftables, nfanswers
from hvtx.host.inet import packed
from hvtx.host.netlink import DumpInterrupted, forbidden
from hvtx.host.nfnetlink import Nftables
from hvtx.host.retry import retry_transient
from hvtx.model.typed import Any, NamedTuple

_NO_NFTABLES = frozenset({errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT, errno.ENOENT})


class Table(NamedTuple):
    """A table as it stands, but for numbers that the kernel gives."""

    comment: str | None
    chains: dict[str, str]  # their hooks, by name
    sets: tuple[str, ...]  # and maps
    rules: tuple[str, ...]
    leads: dict[str, str]  # elements of maps: the chains that keys lead to
    addresses: dict[str, frozenset[bytes]]  # by set

    @property
    def shape(self) -> str:
        """Chains, sets and rules, to be compared."""
        return json.dumps([self.chains, sorted(self.sets), self.rules], indent=0)


def read(name: str) -> Table | None:
    """A table of family inet; None where there is none. Raises HostRefused, NotPermitted."""
    there = _by_netlink(name)
    if there is None:
        return None
    try:
        listed = libnftables.run(f"list table inet {name}", json=True)
    except HostRefused as problem:
        if "No such file" in problem.message:
            return None
        raise
    return parsed(listed, there.comment)


def parsed(listed: str, comment: str | None) -> Table:
    """A table as nft lists it in JSON. Raises HostRefused for what is none."""
    try:
        return _parsed(json.loads(listed)["nftables"], comment)
    except (KeyError, TypeError, ValueError, AttributeError, OSError, RecursionError) as problem:
        raise HostRefused(
            f"what nft lists of a table cannot be read: {type(problem).__name__}",
            hint="is libnftables older than 1.0, or much newer than 1.1?",
        ) from problem


def _parsed(listed: list[dict[str, Any]], comment: str | None) -> Table:
    kinds: dict[str, list[dict[str, Any]]] = {}
    for one in listed:
        for kind, what in one.items():
            kinds.setdefault(kind, []).append(what)
    sets, maps = kinds.get("set", []), kinds.get("map", [])
    chains = {
        one["name"]: " ".join(str(one.get(part)) for part in ("type", "hook", "prio", "policy"))
        for one in sorted(kinds.get("chain", ()), key=lambda one: str(one["name"]))
    }
    rules = sorted(kinds.get("rule", ()), key=lambda one: str(one["chain"]))
    return Table(
        comment,
        chains,
        tuple(one["name"] for one in (*sets, *maps)),
        tuple(json.dumps([one["chain"], one["expr"]], sort_keys=True) for one in rules),
        {str(key): _target(verdict) for one in maps for key, verdict in one.get("elem", ())},
        {one["name"]: frozenset(map(_packed, one.get("elem", ()))) for one in sets},
    )


def _by_netlink(name: str) -> nfanswers.Table | None:
    """The table, with the comment that nft 1.0.6 leaves out of its JSON. Raises as :func:`read`."""
    try:
        with closing(Nftables()) as socket:
            tables = retry_transient(socket.tables)
    except OSError as problem:
        if problem.errno in _NO_NFTABLES:
            return None
        if forbidden(problem):
            raise NotPermitted(f"table inet {name} may not be read") from problem
        raise HostRefused(f"table inet {name} cannot be read: {problem.strerror}") from problem
    except DumpInterrupted as problem:
        raise HostRefused(
            f"table inet {name} cannot be read: tables changed all the while",
            hint="another program changes the ruleset in a loop: stop it, then try again",
        ) from problem
    return next((one for one in tables if (one.family, one.name) == ("inet", name)), None)


def _target(verdict: Any) -> str:
    """``jump`` with its chain; whatever else it is, as it is."""
    if isinstance(verdict, dict) and isinstance(verdict.get("jump"), dict):
        return str(verdict["jump"].get("target"))
    return json.dumps(verdict)


def _packed(element: Any) -> bytes:
    return packed(element["elem"]["val"] if isinstance(element, dict) else element)


def run(commands: str) -> None:
    """Run one batch. Raises HostRefused, NotPermitted."""
    libnftables.run(commands)


def removed(commands: str) -> bool:
    """Run a batch that takes something away; False if that is not there. Raises HostRefused."""
    try:
        libnftables.run(commands)
    except HostRefused as problem:
        if "No such file" in problem.message:
            return False
        raise
    return True
