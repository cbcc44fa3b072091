"""Every system call of every changing command may fail: nothing is lost, nothing is half done.

A command is run with one of its calls failing, once or from there on (`integration.lab.errnos` says
which and how), and then the host is looked at. The oracle needs no lists:

- the exit code is one of the interface's, and standard error holds no traceback;
- 0 means that all is done: the host is as after the command, and a plan is empty;
- any other code, with nothing left under way, means that the host is as before;
- where something is left under way, the next `recover` brings the host there, or to after;
- others' things stay as they are, byte for byte, and no process is on the loose;
- the command can be given again, and when all is removed, nothing is left.

The ordinary run takes an even sample, on one of the backends in turns but for DEEPER;
`HVTX_FAULTS=all` (tox -e faults) takes each on both. Commands join by standing in
`test_failpoints.COMMANDS`.
"""

from __future__ import annotations

import copy
import ctypes
import errno
import json
import os
import re
import shutil
import signal
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from hvtx.host import libnftables
from hvtx.host.links import Links
from integration import lab
from integration.crash.test_failpoints import (
    _RANDOM,
    BACKENDS,
    COMMANDS,
    GUESTS,
    NEITHER,
    end_everything,
    end_guests,
    given,
    guests,
)  # fmt: skip
from integration.crash.test_failpoints import host as dump_without_random
from integration.lab import attachments, loggers
from integration.lab.errnos import evenly, faults
from integration.lab.injector import SUPPORTED, Fault, Injected, Site, run_injected
from integration.lab.program import Forked, Ran, preload

__all__ = ["guests"]  # the fixture that ends what `vm attach` was given
ALL = os.environ.get("HVTX_FAULTS") == "all"
SAMPLE = 6
DEEPER = ("network create", "vm start", "vm stop", "gc --apply", "recover")  # on both backends
CASES = [
    (name, firewall)
    for number, name in enumerate(COMMANDS)
    for turn, firewall in enumerate(BACKENDS)
    if ALL or name in DEEPER or turn == number % len(BACKENDS)
]
INSIDE = 6  # faults of a thread in a container's namespace
CODES = {0, 1, 3, 4, 5, 6, 7, 9, 75}
_SET_CHILD_SUBREAPER = 36
# Here libnftables itself ends the process, with words and a code of its own: as good as killed.
_LIBRARY = (
    "Unable to initialize Netlink socket",
    "nf_tables kernel ABI is broken",
    "obj_type_name: Assertion",
)
# What gc and recover say of things whose VM could be proven neither alive nor dead.
_LEFT_ALONE = re.compile("left alone|liveness-unknown")
# It is done without what depends on filters of others, and says so.
_ERRORS = re.compile(r"^error: (.*)", re.MULTILINE)
_DONE_BEFORE = re.compile(r"there is no VM|VM '[a-z]+' is running$")
_WITHOUT = re.compile(r"warning: guests get no accept in the filters of others")
_SKIPPED = re.compile(r"\[skipped\]|[1-9][0-9]* skipped|liveness-unknown|neither alive nor dead")
# Chains of an empty legacy table.
_OPEN = [f":{hook} ACCEPT" for hook in ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")]
_SETTINGS = ("ipv4/ip_forward", "ipv6/conf/all/forwarding")
_TABLES = ("vm", "network", "subnet", "interface", "lease", "port", "attempt")


# -- what is looked at after each run ------------------------------------------------------------


def quick() -> dict[str, Any]:
    """What hvtx may change in the host, in two milliseconds; raw."""
    links = Links()
    try:
        seen = {"links": links.all(), "addresses": links.addresses()}
    finally:
        links.close()
    rules = json.loads(libnftables.run("list ruleset", json=True))["nftables"]
    seen["nft"] = [item for item in rules if "metainfo" not in item]
    seen["settings"] = [Path("/proc/sys/net", name).read_text() for name in _SETTINGS]
    seen["legacy"] = _legacy()
    return seen


def _legacy() -> list[str]:
    found = []
    for version in ("", "6"):
        if Path(f"/proc/thread-self/net/ip{version}_tables_names").read_text():
            text = lab.run(f"ip{version}tables-legacy-save")
            lines = [re.sub(r" \[\d+:\d+\]", "", line) for line in text.split("\n")]
            found += [line for line in lines if line.startswith((":", "-")) and line not in _OPEN]
    return found


def rows(state: Path) -> list[tuple[Any, ...]]:
    """What the store says of things that are there, and of what is under way."""
    path = state / "hvtx.db"
    if not path.exists():
        return []
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as sql:
        found = [(t, *row) for t in _TABLES for row in sql.execute(f"SELECT * FROM {t}")]
        found += sql.execute("SELECT * FROM resource WHERE state <> 'released'").fetchall()
        return found + sql.execute("SELECT id, verb FROM operation WHERE ended IS NULL").fetchall()


def processes() -> list[int]:
    """Living children, those that lost their parent too: we are everybody's last one."""
    found = []
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    loggers.settled(map(int, children.read_text().split()))
    for pid in children.read_text().split():
        if loggers.is_logger(int(pid)):
            continue  # of a VM that lives, and ends with it
        state = Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[0]
        if int(pid) in {box.pid for box in attachments.BOXES}:
            continue  # what keeps a container's namespace is not hvtx's to begin and end
        if state == "Z" and int(pid) not in {guest.pid for guest in GUESTS}:
            os.waitpid(int(pid), 0)
        elif state != "Z":
            found.append(int(pid))
    return found


def plain(thing: object) -> str:
    """Text in which random names, numbers and marks count as what they are, in no order."""
    text = json.dumps(thing, sort_keys=True, default=str)
    for pattern, kind in _RANDOM:
        text = re.sub(pattern, kind, text)
    return text


def in_order(rules: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A ruleset whose sets have their elements in the order of their text: the kernel has none."""
    for item in rules:
        for thing in item.values():
            if isinstance(thing.get("elem"), list):
                thing["elem"].sort(key=plain)
    return rules


def host() -> dict[str, object]:
    """A whole dump, the same for every installation.

    Without the carrier, which the kernel shows up to a second late (linkwatch), and without legacy
    tables that are empty: they stay once they were used.
    """
    dump = dump_without_random()
    legacy: dict[str, list[str]] = dump["legacy"]  # type: ignore[assignment]
    words = {"", "COMMIT", *_OPEN}
    dump["legacy"] = {
        name: lines for name, lines in legacy.items() if not words.issuperset(lines[1:])
    }
    carrier = r'"(NO-CARRIER|linkdown)"(, )?|"operstate": "(UP|DOWN)"(, )?'
    text = re.sub(carrier, "", json.dumps(dump))
    dump = json.loads(text.replace(", ]", "]").replace(", }", "}"))
    return {**dump, "nft": in_order(dump["nft"])}


# -- a host to try things on ---------------------------------------------------------------------


class Stage:
    """A network namespace with others' things, a store, and a command about to be given."""

    def __init__(self, name: str, firewall: str, base: Path, patch: pytest.MonkeyPatch) -> None:
        self.name, self.firewall, self._base, self._patch = name, firewall, base, patch
        self.seen: Counter[str] = Counter()  # by exit code, words and what is left
        self.examples: dict[str, str] = {}
        self.complaints: list[str] = []
        self._held = ExitStack()
        self.before: dict[str, object] = {}
        try:
            self.renew()
            self.rehearsal = run_injected(given(name), self.hvtx.environment)
            assert self.rehearsal.ran.code == 0, self.rehearsal.ran
            assert self.hvtx.is_clean() or name in NEITHER
            self.after, self.after_quick = host(), self._shape(self.look())
            self.renew()
        except BaseException:
            self.close()  # nobody else has it yet
            raise

    def renew(self) -> None:
        """Leave everything behind and begin anew, up to the command."""
        self.close()
        base = self._base / "host"  # always the same: nft 1.1 shows the store's path in a comment
        base.mkdir()
        self.state = base / "state"
        self._patch.setenv("HVTX_STATE_DIR", str(self.state))
        self._patch.setenv("HVTX_RUN_DIR", str(base / "run"))
        self.run_directory = base / "run"
        self._held.enter_context(lab.private_network())
        self._held.callback(shutil.rmtree, base)
        self._foreign_objects()
        self.empty = quick()
        self.hvtx = Forked(HVTX_FIREWALL=self.firewall)
        COMMANDS[self.name].prepare(self.hvtx)
        self.before_raw = self.look()
        self.before = self.before or host()

    def close(self) -> None:
        """End what runs, and leave the namespace."""
        end_guests()
        for pid in processes():
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        self._held.close()

    def _foreign_objects(self) -> None:
        words = """tuntap add strange0 mode tap
            link set strange0 address 0a:00:00:00:00:01
            addr add 192.0.2.1/24 dev strange0"""
        lab.run("ip", "-batch", "-", stdin=words)
        nft = (
            "add table ip strange; add chain ip strange c { type filter hook forward priority 0; };"
        )
        lab.run("nft", f"{nft} add rule ip strange c ip daddr 192.0.2.9 counter drop")
        if self.firewall == "iptables":
            # tables stay when they have been used, so they are there from the beginning
            tables = "".join(f"*{table}\nCOMMIT\n" for table in ("filter", "nat", "mangle", "raw"))
            rule = "*filter\n-A FORWARD -d 192.0.2.9 -j DROP\nCOMMIT\n"
            lab.run("iptables-legacy-restore", "-n", stdin=tables + rule)
            lab.run("ip6tables-legacy-restore", "-n", stdin=tables)

    def look(self) -> dict[str, Any]:
        """Host, store, files and processes as they are now."""
        return {
            **quick(), "rows": rows(self.state), "files": self.files(), "processes": processes(),
            "inside": attachments.inside(),
        }  # fmt: skip

    def files(self) -> list[str]:
        """Run-time directories of VMs, and drafts of anything."""
        found = [path.name for path in self.run_directory.glob("*/vms/*")]
        for directory in (self.run_directory, self.state):
            found += [path.name for path in directory.rglob("*.new")]
        return sorted(found)

    def _shape(self, looked: dict[str, Any]) -> str:
        """A look without what differs from run to run."""
        few = {**looked, "rows": len(looked["rows"]), "processes": len(looked["processes"])}
        few["files"] = len(looked["files"])
        few["nft"] = in_order(copy.deepcopy(looked["nft"]))
        for part in ("links", "addresses"):
            texts = [re.sub(r"ifindex=\d+|master=\d+", "", str(x)) for x in looked[part]]
            few[part] = sorted(map(plain, texts))
        return plain(few)

    # -- one fault -----------------------------------------------------------------------------

    def attempt(self, fault: Fault) -> None:
        """Give the command with ``fault``, and judge what it leaves."""
        done = run_injected(given(self.name), self.hvtx.environment, fault)
        if not done.failed:
            self.seen["not met"] += 1  # a run that took another way: it did what it does
            self.examples["not met"] = str(fault)
        looked = self.look()
        unchanged = looked == self.before_raw
        self._judge_words(done.ran, fault)
        words = plain(re.sub(r"\d+", "0", done.ran.err))
        shape = "before" if unchanged else self._shape(looked)
        known = f"{done.ran.code} {words} {shape}"
        self.seen[known] += 1
        self.examples.setdefault(known, str(fault))
        if self.seen[known] == 1:
            self._judge(done, fault, looked, unchanged=unchanged)
        elif not unchanged:
            self.renew()

    def write_down(self, path: str | None) -> None:
        """Append what came out to a file, for people: how often, one example, code and words."""
        if path:
            with Path(path).open("a") as log:
                for known, times in self.seen.items():
                    short = known if known.endswith(" before") else known.partition(' {"')[0]
                    what = f"{self.name}, {self.firewall}"
                    log.write(f"{what}\t{times}\t{self.examples[known]}\t{short}\n")

    def complain(self, fault: Fault, ran: Ran, what: str) -> None:
        """Keep a complaint; the others are still to be found."""
        words = (
            f"{self.name} ({self.firewall}), {fault}: exit {ran.code}: {what}\n{ran.err.strip()}"
        )
        self.complaints.append(words)
        if os.environ.get("HVTX_FAULTS_LOG"):
            with Path(os.environ["HVTX_FAULTS_LOG"]).open("a") as log:
                log.write(f"COMPLAINT {words}\n")

    def _judge_words(self, ran: Ran, fault: Fault) -> None:
        by_library = any(words in ran.err for words in _LIBRARY)
        if ran.code not in CODES and not (by_library and ran.code == -signal.SIGABRT):
            self.complain(fault, ran, "not a code of the interface")
        if "Traceback" in ran.err or "bug in hvtx" in ran.err:
            self.complain(fault, ran, "a traceback, or a bug by its own words")
        if by_library:
            return
        if ran.code not in (0, 9) and not re.search("^error: ", ran.err, re.MULTILINE):
            self.complain(fault, ran, "no word of what is wrong")

    def _judge(
        self, done: Injected, fault: Fault, looked: dict[str, Any], *, unchanged: bool
    ) -> None:
        ran = done.ran
        if unchanged:
            self._like(fault, ran, {"before": self.before})
            # a backup of the very store puts back what is there: done, and nothing has changed
            changes = self._shape(self.before_raw) != self.after_quick
            if changes and ran.code == 0 and not _LEFT_ALONE.search(ran.out):
                self.complain(fault, ran, f"it says done, and nothing is: {ran.out}")
            return
        try:
            self._judge_change(fault, ran, looked)
        except AssertionError as problem:
            self.complain(fault, ran, str(problem))
        self.renew()

    def _judge_change(self, fault: Fault, ran: Ran, looked: dict[str, Any]) -> None:
        under_way = [row for row in looked["rows"] if len(row) == 2 or "releasing" in row]
        if ran.code == 0 and not _SKIPPED.search(ran.out) and not _WITHOUT.search(ran.err):
            if self._shape(looked) != self.after_quick:
                shape = _differing(self.after_quick, self._shape(looked))
                self.complain(fault, ran, f"it says done, and not all is: {shape}")
            self._like(fault, ran, {"after": self.after})
        elif not under_way and self.name not in NEITHER and not _WITHOUT.search(ran.err):
            self._like(fault, ran, {"before": self.before, "after": self.after})
        if ran.code != 0:
            self.hvtx("recover")
        if self.name in NEITHER:
            self.hvtx("gc", "--apply")
        elif ran.code != 0:
            self._like(fault, ran, {"before": self.before, "after": self.after})
        assert self.hvtx.is_clean(), self.hvtx("gc", "--plan").out
        self._no_process_on_the_loose()
        again = self.hvtx(*given(self.name), code=None)
        # of several some went the first time
        errors = _ERRORS.findall(again.err)
        before = again.code == 9 and errors and all(map(_DONE_BEFORE.match, errors))
        assert before or again.code in (0, 3, 4), f"given again: {again}"
        end_everything(self.hvtx)
        assert not processes() or GUESTS, "a process is left"
        left = lab.difference({**self.empty, "files": []}, {**quick(), "files": self.files()})
        assert not left, f"left when all is removed: {left}"

    def _like(self, fault: Fault, ran: Ran, wanted: dict[str, dict[str, object]]) -> None:
        now = _in_any_order(host())
        differences = {
            name: lab.difference(_in_any_order(then), now) for name, then in wanted.items()
        }
        if all(differences.values()):
            words = "\n".join(f"not as {name}: {text}" for name, text in differences.items())
            self.complain(fault, ran, words)

    def _no_process_on_the_loose(self) -> None:
        known = {guest.pid for guest in GUESTS} | self._holders() | self._services()
        for vm in self.hvtx("vm", "ls", "--json").json()["vms"]:
            known.add(vm["pid"])
        loose = set(processes()) - known
        assert not loose, f"processes that no VM accounts for: {loose}"

    def _holders(self) -> set[int]:
        """The processes that the records name as holding published ports."""
        told = "json_extract(observed, '$.holder.pid')"
        return self._recorded(told, f"state <> 'released' AND {told} IS NOT NULL")

    def _services(self) -> set[int]:
        """The processes that the records name as networks' own."""
        told = "json_extract(observed, '$.pid')"
        own = "kind = 'process' AND vm IS NULL AND state = 'committed'"
        return self._recorded(told, f"{own} AND {told} IS NOT NULL")

    def _recorded(self, told: str, rows: str) -> set[int]:
        """What rows tell; nothing where no store is: what found nothing to do makes none."""
        path = self.state / "hvtx.db"
        if not path.exists():
            return set()
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as sql:
            return {pid for (pid,) in sql.execute(f"SELECT {told} FROM resource WHERE {rows}")}


_PUBLISHES = re.compile(r"-A hvtx-table-(OUT|PRE) .* -j DNAT ")


def _in_any_order(seen: dict[str, Any]) -> dict[str, Any]:
    """A dump with iptables' published ports sorted: no two rules are about the same packets."""
    legacy = {}
    for table, lines in seen.get("legacy", {}).items():
        ports = iter(sorted(line for line in lines if _PUBLISHES.match(line)))
        legacy[table] = [next(ports) if _PUBLISHES.match(line) else line for line in lines]
    return {**seen, "legacy": legacy} if legacy else seen


def _differing(wanted: str, found: str) -> str:
    """Where two shapes part."""
    pairs = enumerate(zip(wanted, found, strict=False))
    at = next((n for n, (one, other) in pairs if one != other), len(wanted))
    return f"…{wanted[max(0, at - 120) : at + 80]!r} and …{found[max(0, at - 120) : at + 80]!r}"


@contextmanager
def subreaper() -> Iterator[None]:
    """Orphans become children of this process, so that none is overlooked."""
    library = ctypes.CDLL(None, use_errno=True)
    assert library.prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    try:
        yield
    finally:
        library.prctl(_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def sample(whole: list[Fault]) -> list[Fault]:
    """An even sample; of what a thread does in a container's namespace one of its own."""
    return evenly([fault for fault in whole if not fault.site.inside], SAMPLE) + evenly(
        [fault for fault in whole if fault.site.inside], INSIDE
    )


@pytest.mark.timeout(7200)
@pytest.mark.skipif(not SUPPORTED, reason="errors are put into registers of x86-64")
@pytest.mark.parametrize(("name", "firewall"), CASES)
def test_a_failing_system_call_loses_nothing(
    name: str,
    firewall: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
) -> None:
    preload()
    with subreaper():
        stage = Stage(name, firewall, tmp_path, monkeypatch)
        try:
            whole = faults(stage.rehearsal.calls)
            chosen = whole if ALL else sample(whole)
            record_property("faults", len(whole))
            record_property("tried", len(chosen))
            print(f"{name}, {firewall}: {len(chosen)} of {len(whole)} faults")  # noqa: T201
            for fault in chosen:
                stage.attempt(fault)
        finally:
            stage.close()
            stage.write_down(os.environ.get("HVTX_FAULTS_LOG"))
    assert not stage.complaints, "\n\n".join(stage.complaints)


@pytest.mark.timeout(7200)
@pytest.mark.skipif(not SUPPORTED, reason="errors are put into registers of x86-64")
@pytest.mark.parametrize("firewall", BACKENDS)
@pytest.mark.parametrize("vm", ["running", "crashed"])
def test_a_failing_look_proves_nothing(
    vm: str,
    firewall: str,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
) -> None:
    """A plan that could not see everything takes nothing for absent, and nothing for dead.

    Of a VM that runs nothing is to be done; what a crashed one left is deleted or kept, and never
    forgotten: all of it is there, but the process.
    """
    preload()
    hvtx = Forked(HVTX_FIREWALL=firewall)
    COMMANDS["vm stop" if vm == "running" else "gc --apply"].prepare(hvtx)
    wrong = {"delete", "commit", "forget"} if vm == "running" else {"commit", "forget"}
    state = Path(os.environ["HVTX_STATE_DIR"])
    before = (quick(), rows(state))
    argv = ("gc", "--plan", "--json")
    calls = run_injected(argv, hvtx.environment).calls
    whole = [fault for fault in faults(calls) if fault.site.to != "output"]
    chosen = whole if ALL else evenly(whole, 16)
    record_property("faults", len(whole))
    record_property("tried", len(chosen))
    print(f"gc --plan, {vm}, {firewall}: {len(chosen)} of {len(whole)} faults")  # noqa: T201
    complaints = []
    for fault in chosen:
        ran = run_injected(argv, hvtx.environment, fault).ran
        if ran.code not in CODES or "Traceback" in ran.err or "bug in hvtx" in ran.err:
            complaints.append((str(fault), ran))
        if ran.code == 0:
            items = ran.json()["items"]
            found = [i for i in items if i["action"] in wrong and i["kind"] != "process"]
            if found or not items:
                complaints.append((str(fault), found, items))
        elif ran.code == 1:
            complaints.append((str(fault), ran))
        assert (quick(), rows(state)) == before, fault
    assert not complaints, "\n\n".join(map(str, complaints))
    end_everything(hvtx)


@pytest.mark.skipif(not SUPPORTED, reason="errors are put into registers of x86-64")
@pytest.mark.parametrize(
    "name",
    [
        "cni del", "cni gc", "vm stop", "vm stop, several", "vm rm --force", "vm rm, several",
        "network rm", "gc --apply",
    ],
)  # fmt: skip
def test_what_frees_on_a_full_disk_leaves_no_operation(name: str) -> None:
    """It is carried out once more, from its reserve; what the first time began is closed too."""
    preload()
    hvtx = Forked()
    COMMANDS[name].prepare(hvtx)
    write = Site("write", "store")
    calls = run_injected(given(name), hvtx.environment).calls
    begun = [n for n, call in enumerate(calls) if call == write and calls[n - 1].deed != "write"]
    numbers = [calls[: n + 1].count(write) for n in begun if calls[n - 1].deed != "read"]
    end_everything(hvtx)
    codes = []
    for number in numbers:
        attachments.end_boxes()
        COMMANDS[name].prepare(hvtx)
        done = run_injected(given(name), hvtx.environment, Fault(write, number, errno.ENOSPC))
        codes.append(done.ran.code)
        assert hvtx.is_clean(), (number, done.ran)
        if name.startswith(("vm rm", "cni")):
            assert hvtx("vm", "ls", "--json").json()["vms"] == []
        end_everything(hvtx)
    assert set(codes) == {0} and len(codes) > 3


# where it looks for the namespace, where it reads the rules, where it removes them
_LOOKS = (
    (Fault(Site("send", "route"), 1, errno.ENOBUFS, lasting=True), "cannot tell whether"),
    (Fault(Site("receive", "netfilter"), 1, errno.ENOMEM), "could not be read"),
    (Fault(Site("send", "netfilter"), 59, errno.ENOBUFS, lasting=True), "its VM is dead"),
)


@pytest.mark.skipif(not SUPPORTED, reason="errors are put into registers of x86-64")
@pytest.mark.parametrize(("fault", "words"), _LOOKS, ids=["namespace", "rules", "removal"])
def test_a_runtimes_gc_that_could_not_look_says_so(fault: Fault, words: str) -> None:
    """It is an error, of which a runtime hears; the next one finds what is left."""
    preload()
    hvtx = Forked()
    COMMANDS["cni gc"].prepare(hvtx)
    done = run_injected(given("cni gc"), hvtx.environment, fault)
    assert done.failed
    assert (done.ran.code, words in done.ran.err) == (9, True), done.ran
    assert len(hvtx("vm", "ls", "--json").json()["vms"]) == 1
    hvtx(*given("cni gc"))
    assert hvtx("vm", "ls", "--json").json()["vms"] == []
    assert hvtx.is_clean()
    end_everything(hvtx)
