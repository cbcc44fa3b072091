"""`gc --installation`: the remains of an installation whose store is gone, by a person's word.

Everything else removes only what is on record in its own store. Here there is no record any more,
so the proof is another one (docs/adr/0019): no store claims the installation wherever it left word
of one, no process of it lives or works, and a person has named it and said yes. What cannot be
inspected speaks against it.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

from hvtx.drivers import dnsmasq
from hvtx.drivers.base import DeviceDriver, FirewallDriver, Host
from hvtx.engine.effects import held_by_others, remove_seen
from hvtx.engine.executor import execute
from hvtx.engine.gc_plan import Report
from hvtx.engine.registry import DRIVERS, FIREWALLS
from hvtx.engine.runtime import Runtime
from hvtx.engine.transaction import Operation, begin
from hvtx.errors import Conflict, HvtxError, NotFound, UsageError
from hvtx.host import devices, failpoint, installation_processes, openfiles, paths, store_location
from hvtx.host.links import Links
from hvtx.host.locks import LockFile
from hvtx.host.mounts import is_local
from hvtx.host.netlink import DumpInterrupted
from hvtx.host.xtnames import legacy_tables
from hvtx.model.plan import Item, ItemResult, Plan, Result
from hvtx.model.reason import Reason
from hvtx.model.resource import GONE, Entry, Kind, Link, Outcome
from hvtx.model.typed import Any, NamedTuple
from hvtx.planner.execution import result_of
from hvtx.planner.lost import (
    CONTAINER,
    Remains,
    Service,
    containers,
    devices_of,
    installations,
    is_table,
    own_addresses,
    plan_lost,
    tells,
)
from hvtx.store import backup, history
from hvtx.store.history import Event

_ID = re.compile(r"[a-z2-7]{10}")
_FRESH = 0.5  # seconds: how old an answer may be when something is removed on it
_MARKER_MOST = 1 << 16  # bytes
_WELL_KNOWN = ("/var/lib/hvtx", "/run/hvtx")
_PROCESS = "a process of it lives: "
_AFTERWARDS = ItemResult(Result.SKIPPED, "it goes after everything else")


class Word(NamedTuple):
    """What is known of an installation's store: why it may live (or nothing), and evidence."""

    objections: tuple[str, ...]
    evidence: tuple[str, ...]


def make_plan(runtime: Runtime, installation: str) -> Report:
    """What of the installation would be removed; changes nothing. Raises UsageError, NotFound."""
    if not _ID.fullmatch(installation):
        raise UsageError(
            f"{installation!r} is not an installation id",
            hint="it has 10 letters and digits, as in a mark: hvtx:1:<installation>:…",
        )
    if installation == runtime.installation:
        raise Conflict(
            f"{installation} is the installation of the present store",
            hint="`hvtx gc --apply` collects it; what is not on record, --unrecorded",
        )
    made = history.now()
    plan = plan_lost(_look(runtime, installation))
    return Report(plan, False, None, runtime.boot_id, runtime.netns, made)


def seen(own: str) -> list[str]:
    """The installations, but for ``own``, whose marks stand on devices here. Raises HvtxError."""
    return sorted(installations(_links()[0], ()) - {own})


def _look(runtime: Runtime, installation: str) -> Remains:
    links, addresses, filtered = _links()
    entries: list[Entry] = []
    for backend in FIREWALLS:
        if backend == "nftables" or legacy_tables():
            entries += _driver(runtime, installation, backend).observe()
    own = devices_of(links, installation)
    services = _services(installation)
    if not own and not services and installation not in installations((), entries):
        known = installations(links, entries) - {runtime.installation}
        raise NotFound(
            f"nothing on this host carries a mark of installation {installation}",
            hint=f"others here: {', '.join(sorted(known))}" if known else "nor of another one",
        )
    taps = [link.name for link in own if link.kind == "tun"]
    # whom this does not show is met by attaching to all of them, before anything goes
    holders = openfiles.tap_holders(set(taps))
    held = {n: tuple(f"{h.command} (pid {h.pid})" for h in hs) for n, hs in holders.found.items()}
    word = ask(runtime, installation, taps)
    objections = list(word.objections)
    objections += [f"{', '.join(who)} has {name} open" for name, who in held.items()]
    return Remains(
        installation, links, addresses, filtered, entries, held, tuple(objections), services
    )


def _services(installation: str) -> list[Service]:
    return [Service(*found) for found in dnsmasq.of_installation(installation)]


def _links() -> tuple[list[Link], list[Any], frozenset[int]]:
    source = Links()
    try:
        return source.all(), source.addresses(), source.filtered()
    except (OSError, DumpInterrupted) as problem:
        raise HvtxError(f"the links could not be listed: {problem}", hint="try again") from problem
    finally:
        source.close()


def _driver(runtime: Runtime, installation: str, backend: str) -> FirewallDriver:
    """A backend as the installation's own program would have it."""
    from importlib import import_module

    module, _, attribute = DRIVERS[backend].partition(":")
    host: Host = runtime.host._replace(installation=installation)
    driver: FirewallDriver = getattr(import_module(module), attribute)(host)
    return driver


# -- whether it lives ------------------------------------------------------------------------------


def ask(runtime: Runtime, installation: str, taps: list[str]) -> Word:
    """Look for a store or a process of an installation, wherever it may have left word of one."""
    objections, evidence = [], []
    known = _traces(runtime, installation)
    for where, trace in known.items():
        against, words = _follow(trace, installation, where)
        objections += [words] if against else []
        evidence.append(words)
    for directory in {runtime.settings.state_directory, _WELL_KNOWN[0]}:
        path = os.path.join(directory, store_location.STORE)
        if os.path.lexists(path) and _store_at(path) == installation:
            objections.append(f"its store is {path}")
    if not known and installation in runtime.nftables().others():
        objections.append(
            "nothing tells where its store was: an older hvtx made it; if that is gone, remove its"
            f" devices and `nft delete table inet hvtx-{installation}` by hand"
        )
    objections += _locked(runtime, installation)
    objections += _containers(installation)
    seen = installation_processes.of(installation, taps)
    objections += [f"{_PROCESS}{who}" for who in seen.found]
    if not seen.complete:
        objections.append(f"cannot inspect every process{seen.told_unseen}: run hvtx as root")
    return Word(tuple(dict.fromkeys(objections)), tuple(dict.fromkeys(evidence)))


def _containers(installation: str) -> list[str]:
    try:
        return containers(devices.every(), installation)
    except (OSError, DumpInterrupted) as problem:
        return [f"the links could not be listed: {problem}"]


def _traces(runtime: Runtime, installation: str) -> dict[str, str]:
    """By where it was found, each trace that the installation left."""
    found = {}
    trace = runtime.nftables().traces().get(installation)
    if trace is not None:
        found["its table"] = trace
    usual = {runtime.settings.run_directory, _WELL_KNOWN[1]}
    # where a process says that it is; anybody may say so of a directory of his own
    told = {service.run_directory for service in _services(installation)} - usual
    for directory in (*usual, *filter(is_local, told)):
        path = os.path.join(directory, installation, "marker")
        read = paths.read_regular if directory in usual else paths.read_believed
        # what anybody says may lead anywhere: whatever cannot be read there is no trace
        with suppress(FileNotFoundError if directory in usual else OSError):
            lines = read(path, _MARKER_MOST).decode(errors="replace").splitlines()
            if len(lines) > 1:  # an older hvtx wrote one
                found[path] = lines[1]
    return found


def _follow(trace: str, installation: str, where: str) -> tuple[bool, str]:
    """Whether a trace speaks against a removal, and what it says."""
    verdict, path = store_location.follow(trace)
    if verdict == "gone":
        return False, f"its store was {path}, which is gone (told by {where})"
    if verdict == "unseen" or not path:
        place = f"{path}, which cannot be seen from here" if path else "somewhere"
        return True, f"its store is {place}: is its disk mounted? (told by {where})"
    there = _store_at(path)
    if there == installation:
        return True, f"its store is {path}"
    if there is None:
        return True, f"its store may be {path}, which cannot be read"
    return False, f"its store was {path}, where that of installation {there} is now"


def _store_at(path: str) -> str | None:
    """The installation of the store at ``path``; None if it cannot be read."""
    try:
        return backup.installation_at(path)
    except (HvtxError, OSError):
        return None


def _locked(runtime: Runtime, installation: str) -> list[str]:
    """Whether a command of the installation is at work just now."""
    for directory in {runtime.settings.run_directory, _WELL_KNOWN[1]}:
        for name in ("names.lock", "operations.lock"):
            path = os.path.join(directory, installation, name)
            with suppress(FileNotFoundError):
                try:
                    file = LockFile(path, make=False)
                except PermissionError:
                    return [f"{path} cannot be inspected: run hvtx as root"]
                held = file.any_held()
                file.close()
                if held:
                    return ["a command of it is at work"]
    return []


# -- carrying out ----------------------------------------------------------------------------------


def apply(runtime: Runtime, installation: str) -> Report:
    """Remove the remains of a lost installation; goes on past errors.

    Raises UsageError, NotFound, Conflict (it may live), Refused, Busy.
    """
    runtime.enter()
    runtime.lock("all", "gc")
    report = make_plan(runtime, installation)
    refuse_living(runtime, installation, report.plan)
    acting = report.plan.acting()
    if not acting:
        return report._replace(applied=True)
    _refuse_held(runtime.devices(), installation, report.plan)
    with begin(runtime, "gc") as (sql, operation):
        words = f"installation {installation}, whose store is gone: {len(acting)} things to remove"
        operation.history(sql, [Event("began", words, reason=Reason.OTHER_INSTALLATION.value)])
    done = execute(operation, report.plan, LostRemover(runtime, installation, acting))
    return report._replace(plan=done, applied=True)


def refuse_living(runtime: Runtime, installation: str, plan: Plan) -> None:
    """Raise Conflict if anything speaks for the installation's being alive."""
    taps = [item.key for item in plan.items if item.kind == Kind.TAP]
    objections = ask(runtime, installation, taps).objections
    held = [item.message for item in plan.items if item.reason is Reason.IN_USE]
    if objections or held:
        raise Conflict(
            f"installation {installation} may still be in use: "
            f"{'; '.join([*objections, *held][:3])}",
            hint=_way_out(installation, objections),
        )


def _refuse_held(driver: DeviceDriver, installation: str, plan: Plan) -> None:
    """Raise Conflict if somebody has a TAP of it open whom no look at processes shows."""
    taps = [item.link for item in plan.items if item.kind == Kind.TAP and item.link is not None]
    held = [outcome.message for outcome in held_by_others(driver, taps)]
    if held:
        raise Conflict(
            f"installation {installation} may still be in use: {'; '.join(held[:3])}",
            hint=_way_out(installation, ()),
        )


def _way_out(installation: str, objections: Sequence[str]) -> str:
    """What to do about a refusal: where only processes stand in the way, a person can end them."""
    way = _by_hand(installation, objections, "these")
    way = way or "use its own hvtx (--state-dir, --run-dir)"
    return f"{way}; nothing was changed"


def _by_hand(installation: str, objections: Sequence[str], who: str) -> str | None:
    """The way without its own hvtx, in words; None where more than processes speaks for a store."""
    if not all(words.startswith((_PROCESS, CONTAINER)) for words in objections):
        return None
    return (
        f"no store of it was found: end {who} yourself, then run"
        f" hvtx gc --apply --installation {installation} --yes"
    )


class LostRemover:
    """Removes a thing, if it still is what was planned and nothing of its installation lives."""

    def __init__(self, runtime: Runtime, installation: str, acting: Sequence[Item]) -> None:
        """Look at nothing yet; ``acting`` are the things that are to go."""
        self.runtime = runtime
        self.installation = installation
        self._taps = [item.key for item in acting if item.kind == Kind.TAP]
        self._left = False  # something stayed: then the tables do, which tell whose it was
        self._late: tuple[str, ...] = ()  # what came up meanwhile: from then on nothing goes
        self._asked = 0.0

    def __call__(self, operation: Operation, item: Item) -> ItemResult:
        """Remove it; what came of it is put into the history."""
        if self._left and item.entry is not None and is_table(item.entry):
            return _AFTERWARDS
        if not self._late and time.monotonic() - self._asked > _FRESH:
            self._late = ask(self.runtime, self.installation, self._taps).objections
            self._asked = time.monotonic()
        outcome = self._remove(item)
        if item.kind == Kind.TAP and not outcome.gone and outcome.reason != "foreign-dependents":
            self._late = self._late or (outcome.message,)  # whose it is may live
        self._left = self._left or not outcome.gone
        words = f"{item.kind} {item.key}" if outcome.gone else outcome.message
        event = Event(
            "removed" if outcome.gone else "kept", words, item.kind, item.key,
            item.reason.value if outcome.gone else outcome.reason,
            detail={"mark": item.mark, "installation": self.installation},
        )  # fmt: skip
        with self.runtime.store.transaction() as sql:
            operation.history(sql, [event])
        failpoint.reach("removed:lost")
        return result_of(outcome)

    def _remove(self, item: Item) -> Outcome:
        if self._late:
            return Outcome(False, "contended", self._late[0])
        if item.kind == Kind.PROCESS:
            return self._end_service(item)
        if item.link is not None:
            return self._remove_device(item, item.link)
        return self._remove_rules(item)

    def _end_service(self, item: Item) -> Outcome:
        """As its own installation would, if it still reads its files."""
        for service in _services(self.installation):
            if service.key != item.key:
                continue
            try:
                if not dnsmasq.end(service.identity):
                    return Outcome(False, "host-refused", "it does not end, not even by SIGKILL")
            except OSError as problem:
                words = f"it cannot be ended: {problem.strerror or problem}"
                return Outcome(False, "observe-failed", words)
        return GONE

    def _remove_device(self, item: Item, link: Link) -> Outcome:
        """By the drivers of the kind, which look again: a TAP goes by attaching to it."""
        _, addresses, _ = _links()
        own = own_addresses([a.address for a in addresses if a.ifindex == link.ifindex])
        driver = self.runtime.drivers.of(item.kind)
        return remove_seen(driver, item, own if item.kind == Kind.BRIDGE else ())

    def _remove_rules(self, item: Item) -> Outcome:
        """Each rule and element as it was seen; a table whole, or not at all."""
        entries = [entry for entry in (item.entry, *item.more) if entry is not None]
        tables = sorted((entry for entry in entries if is_table(entry)), key=tells)
        whole = {entry.place for entry in tables}
        loose = [entry for entry in entries if entry not in tables]
        rest = [entry for entry in loose if entry.place.whole not in whole]
        drivers = {
            entry.backend: _driver(self.runtime, self.installation, entry.backend)
            for entry in entries
        }
        outcomes = [drivers[entry.backend].remove(entry) for entry in (*rest, *tables)]
        return next((outcome for outcome in outcomes if not outcome.gone), GONE)


# -- explaining ------------------------------------------------------------------------------------


def about(runtime: Runtime, installation: str) -> Mapping[str, Any]:
    """``evidence`` and ``why`` of a thing of another installation, for `explain`."""
    try:
        links, _, _ = _links()
        taps = [link.name for link in devices_of(links, installation) if link.kind == "tun"]
        word = ask(runtime, installation, taps)
    except (HvtxError, OSError) as problem:
        return {"evidence": [f"cannot tell whether its store exists: {problem}"]}
    evidence = list(dict.fromkeys((*word.evidence, *word.objections)))
    if word.objections:
        way = _by_hand(installation, word.objections, "its processes")
        return {"evidence": evidence} if way is None else {"evidence": evidence, "why": way}
    why = (
        "its store is gone, and no process or container of it lives: on your word `hvtx gc --apply "
        f"--installation {installation} --yes` removes all of it; first `hvtx gc --plan "
        f"--installation {installation}`"
    )
    return {"evidence": evidence or ["nothing tells of a store of it"], "why": why}
