"""Hosts that are registered in etcd: each installation by one machine, once.

Each question is one transaction, which comes to the same when asked twice. No key has a lease of
etcd's: time frees nothing.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Sequence
from functools import partial

from hvtx.engine.etcd_values import members_of, number_of
from hvtx.engine.shut_in import starts_vms
from hvtx.engine.unit_files import cut_off
from hvtx.errors import Busy, Conflict, HostRefused, NotPermitted, Refused
from hvtx.host import etcd, parallel
from hvtx.host.etcd import Etcd, Kv, Reply, Unanswered
from hvtx.model.block import Cluster, Member, Who
from hvtx.model.typed import Any
from hvtx.planner.blocks import FORGOTTEN

NUMBER = 12  # digits of a claim's number
UNREACHABLE = "cluster-unreachable"  # of an error: no endpoint answers


class EtcdHosts:
    """An etcd, and this host in it. Its calls raise Busy where nobody answers (unknown)."""

    def __init__(
        self, cluster: Cluster, who: Callable[[], Who], saw: Callable[[Reply], None]
    ) -> None:
        """``saw`` is told each answer, and raises for one that is not to be believed."""
        self._cluster = cluster
        self._etcd = Etcd(
            cluster.endpoints,
            timeout=cluster.timeout,
            ca=cluster.ca,
            cert=cluster.cert,
            key=cluster.key,
        )
        self._find_who = who
        self._who: Who | None = None
        self._saw = saw

    @property
    def who(self) -> Who:
        """The host itself, as it registers. Raises HostRefused."""
        if self._who is None:
            self._who = self._find_who()
        return self._who

    def announce(self) -> None:
        """Register this host, or say anew what it is called and where it is reached.

        Raises Refused, Conflict (it was known here), Busy.
        """
        self._register()

    def last_claim(self) -> int:
        """The number of this installation's newest claim; Refused if it is not this host's."""
        place = "hosts", self.who.installation
        reply = self._read(
            etcd.get(self._key(*place, "machine")), etcd.get(self._key(*place, "last"))
        )
        machine, last = first(reply.found[0]), first(reply.found[1])
        if machine is None and self.who.known:
            raise self._lost()
        if machine not in (None, self.who.machine):
            raise self._not_this_host(machine)
        return self._number(last)

    def granted(self) -> int:
        """The number of this installation's newest claim, whichever machine has it; 0: none."""
        found = self._read(etcd.get(self._key("hosts", self.who.installation, "last"))).found[0]
        return self._number(first(found))

    def is_registered(self) -> bool:
        """Whether this installation is, by whichever machine."""
        found = self._read(etcd.get(self._key("hosts", self.who.installation, "machine"))).found[0]
        return bool(found)

    def take_over(self, recorded: str | None, number: int) -> bool:
        """Register this installation for this machine, by a person's word; True if it was not.

        ``recorded`` is the machine that had it, for the store; ``number`` its newest claim. Raises
        Refused (given up, or registered by a third machine), Busy.
        """
        who, place = self.who, ("hosts", self.who.installation)
        keys = [self._key(*place, what) for what in ("machine", "last")]
        reply = self._read(*map(etcd.get, keys))
        there, last = first(reply.found[0]), first(reply.found[1])
        if there not in (None, who.machine, recorded) and (recorded or there == FORGOTTEN):
            raise self._not_this_host(there or "")
        new = who.machine, f"{max(number, self._number(last)):0{NUMBER}d}"
        about = json.dumps({"host": who.host, "address": who.address})
        reply = self._txn(
            [
                etcd.absent(key) if value is None else etcd.equal(key, value)
                for key, value in zip(keys, (there, last), strict=True)
            ],
            [
                *(etcd.put(key, value) for key, value in zip(keys, new, strict=True)),
                etcd.put(self._key(*place, "about"), about),
            ],
        )
        if not reply.succeeded:
            raise Busy("the registration of this host changed meanwhile", hint="try again")
        return there != who.machine

    def members(self) -> list[Member]:
        """Every host that registered."""
        return self._members(self._read(etcd.below(self._key("hosts", ""))).found[0])

    def reached(self) -> dict[str, str | None]:
        """Each endpoint, all asked at once: None if it answers, or why it does not."""
        found: dict[str, str | None] = dict.fromkeys(self._cluster.endpoints)

        def ask(endpoint: str) -> None:
            try:
                self._etcd.status(endpoint)
            except Unanswered as problem:
                found[endpoint] = str(problem)
            except (HostRefused, NotPermitted) as problem:
                found[endpoint] = problem.message

        for mistake in parallel.each([partial(ask, endpoint) for endpoint in found]):
            if mistake is not None:
                raise mistake
        return found

    def close(self) -> None:
        """Close the connections."""
        self._etcd.close()

    def _lost(self) -> Conflict:
        """The error of an etcd that has not what no host ever removes from it."""
        return Conflict(
            f"etcd does not know installation {self.who.installation}, which had blocks of it: its"
            " content was lost, and what it grants may be had already",
            hint="put back the etcd that has the blocks of all hosts",
        )

    def _register(self) -> None:
        who = self.who
        place = "hosts", who.installation
        machine, about = self._key(*place, "machine"), self._key(*place, "about")
        words = json.dumps({"host": who.host, "address": who.address})
        reply = self._txn(
            [etcd.absent(machine)],
            []
            if who.known
            else [
                etcd.put(machine, who.machine),
                etcd.put(self._key(*place, "last"), "0" * NUMBER),
                etcd.put(about, words),
            ],
            [etcd.get(machine), etcd.get(about)],
        )
        if reply.succeeded and who.known:
            raise self._lost()
        if reply.succeeded:
            return
        known = first(reply.found[0])
        if known is not None and known != who.machine:
            raise self._not_this_host(known)
        if first(reply.found[1]) != words:
            self._txn([etcd.equal(machine, who.machine)], [etcd.put(about, words)])

    def _not_this_host(self, machine: str) -> Refused:
        installation = self.who.installation
        if machine == FORGOTTEN:
            return Refused(
                "store-cloned",
                f"installation {installation} was given up: a person said that this host is gone,"
                " and its blocks are others' by now",
                hint="hvtx cluster status; its VMs have to go, and a new store takes its place",
            )
        return Refused(
            "store-cloned",
            f"installation {installation} is registered by another machine: this host is a copy",
            hint="give this host a store of its own: --state-dir DIR, or remove its VMs and its"
            " store",
        )

    def _members(self, found: Sequence[Kv]) -> list[Member]:
        begin = len(self._key("hosts", ""))
        return members_of({kv.key[begin:]: kv.value for kv in found})

    def _number(self, last: str | None) -> int:
        """The number of this host's newest claim, as etcd has it. Raises HostRefused."""
        found = 0 if last is None else number_of(last)
        if found is None:
            raise self._unreadable(self._key("hosts", self.who.installation, "last"), last)
        return found

    def _unreadable(self, key: str, value: str | None) -> HostRefused:
        """The error of what hvtx did not write."""
        return HostRefused(
            f"etcd has under {key!r} what hvtx did not write: {(value or '')[:60]!r}",
            hint=f"look at it: etcdctl get {shlex.quote(key)}; only hosts may write to the prefix",
            code="cluster-unreadable",
        )

    def _read(self, *parts: Any) -> Reply:
        return self._txn([], parts)

    def _txn(
        self, compare: Sequence[Any], success: Sequence[Any], failure: Sequence[Any] = ()
    ) -> Reply:
        try:
            reply = self._etcd.txn(compare, success, failure)
        except Unanswered as problem:
            raise _unanswered(problem) from problem
        self._saw(reply)
        return reply

    def _key(self, *parts: str) -> str:
        return "/".join((self._cluster.prefix, *parts))


def _unanswered(problem: Unanswered) -> Busy:
    words, hint = f"no etcd answers ({problem})", "hvtx cluster status tells which are reached"
    if starts_vms() and cut_off():
        hint = "hvtx systemd install"
        words += f"; the sandbox of this unit is of before [cluster], and lets nothing out: {hint}"
    return Busy(words, hint=hint, code=UNREACHABLE)


def first(found: Sequence[Kv]) -> str | None:
    """The value of a key that was read; None: it is not there."""
    return found[0].value if found else None
