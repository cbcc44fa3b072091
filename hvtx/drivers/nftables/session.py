"""A way to nf_tables, and what is read and done under one generation of the ruleset."""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping, Sequence

from hvtx.drivers.base import Host
from hvtx.errors import Contended, HostRefused, HvtxError, NotPermitted
from hvtx.host.nfanswers import Rule
from hvtx.host.nfgeneration import (
    ATTEMPTS,
    Acted,
    Listing,
    Stale,
    StillChanging,
    consistently,
    settled,
)
from hvtx.host.nfmessages import Command
from hvtx.host.nfnetlink import Nftables
from hvtx.model.resource import GONE, Outcome
from hvtx.model.typed import TypeVar
from hvtx.rulesets.nftables_layout import FAMILIES, table_name

# the last two are the generation's own words, which the rest of the driver speaks too
__all__ = ["Acted", "NoNftables", "Session", "Stale", "guarded", "refusal"]

_ABSENT = frozenset({errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT})

T = TypeVar("T")


class NoNftables(HostRefused):
    """The kernel has no nf_tables, so none of our objects exists."""


def refusal(problem: OSError, doing: str) -> HvtxError:
    """The error that a person reads for one from the kernel."""
    words = f"nf_tables refused {doing}: {problem.strerror}"
    if problem.errno in {errno.EPERM, errno.EACCES}:
        return NotPermitted(words, hint="run as root, or with CAP_NET_ADMIN")
    if problem.errno in _ABSENT:
        return NoNftables(
            f"the kernel has no nf_tables for {doing}: {problem.strerror}",
            hint="`modprobe nf_tables`, or choose `--firewall iptables`",
        )
    if problem.errno == errno.ENOENT:
        return HostRefused(
            f"hvtx's nft table or set is gone: {words}", hint="`hvtx repair` puts it back"
        )
    return HostRefused(words, hint="`hvtx doctor` shows what this kernel's nf_tables lacks")


class Session:
    """A way to nf_tables, and what is read or done under one generation of the ruleset.

    Works in the network namespace of the thread that first uses it; not for two threads at once.
    """

    def __init__(self, host: Host) -> None:
        """Open nothing yet."""
        self.installation = host.installation
        self.state_directory = host.state_directory
        self.table = table_name(host.installation)
        self._open: Nftables | None = None
        self._listing = Listing()

    def close(self) -> None:
        """Close the socket (after deletions this waits some 14 ms)."""
        if self._open is not None:
            self._open.close()
            self._open = None

    @property
    def socket(self) -> Nftables:
        """The netlink socket, opened when it is first used."""
        if self._open is None:
            self._open = Nftables()
        return self._open

    def consistently(self, action: Callable[[int], T], doing: str) -> T:
        """Do ``action(generation)`` until nothing changed meanwhile.

        An action that acts carries the generation in its batch. Raises Contended after
        ``ATTEMPTS``, NotPermitted or HostRefused for other refusals.
        """
        try:
            return consistently(self.socket, action)
        except OSError as problem:
            raise refusal(problem, doing) from problem
        except StillChanging:
            raise self._contended(doing) from None

    def listed(self, doing: str, *numbers: int) -> list[list[bytes]]:
        """The answers to several GETs of all objects, of one state of the ruleset, the last.

        Raises as :meth:`consistently`.
        """
        try:
            return settled(lambda: self._listing.of(self.socket, *numbers))
        except OSError as problem:
            raise refusal(problem, doing) from problem
        except StillChanging:
            raise self._contended(doing) from None

    def _contended(self, doing: str) -> Contended:
        return Contended(
            f"nf_tables changed {ATTEMPTS} times during {doing}",
            hint="another program changes the ruleset in a loop: stop it, then try again",
        )

    def same(self, generation: int) -> bool:
        """Whether nothing has changed since that generation."""
        return self.socket.generation() == generation

    def act(
        self, generation: int, number: int, commands: Sequence[Command], outcome: Outcome
    ) -> Acted:
        """Do ``commands`` under ``generation``; without any, make sure that it still holds."""
        self.socket.batch(commands, generation)
        if not commands and not self.same(generation):
            raise Stale
        return Acted({number: outcome})

    def own_rules(self) -> list[Rule]:
        """The rules of our own tables."""
        return [rule for family in FAMILIES for rule in self.rules_of(family, self.table)]

    def rules_of(self, family: str, table: str) -> list[Rule]:
        """The rules of one table; none if there is no such table."""
        try:
            return self.socket.rules(family, table)
        except OSError as problem:
            if problem.errno == errno.ENOENT:
                return []
            raise


def guarded(
    ids: Sequence[int], action: Callable[[], Mapping[int, Outcome]]
) -> Mapping[int, Outcome]:
    """The outcomes of ``action``, or one reason for all of ``ids`` where it failed."""
    try:
        return action()
    except NoNftables:
        kept = GONE
    except Contended as problem:
        kept = Outcome(False, "contended", problem.message)
    except (HvtxError, OSError, ValueError) as problem:
        kept = Outcome(False, "observe-failed", str(problem))
    return dict.fromkeys(ids, kept)
