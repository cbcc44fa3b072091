"""The state machine: written once, run on the fake world and on the real one.

A step is a command of hvtx (whole, killed at its nth failpoint, or stopped there while somebody
else acts) or somebody else's act. After each the laws of :mod:`tests.machine.laws` are asked. What
fails is told as a script of commands.
"""

from __future__ import annotations

import difflib
import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from hvtx.host import nfanswers, nfmessages
from hvtx.model.hook import SetElement
from hvtx.model.resource import HOLDER, Kind
from tests.machine import containers, laws
from tests.machine.acts import Ref
from tests.machine.attachment_verbs import WORD
from tests.machine.world import KILLED, Look, Ran, Record, World

SUBNETS = {"net": ("10.77.0.0/24", "fd77::/64"), "lan": ("10.78.0.0/24",)}
VMS = ("web", "db", "ext")
PORT = "8080"
# done, no such thing, conflict, the host refused, a stale plan, some items failed, busy
TOLD = frozenset({0, 3, 4, 6, 8, 9, 75})
# why something may stay on record that was to go: others have it, hold it, or stand on it
KEPT = frozenset(
    {
        "mark-mismatch",
        "mark-stripped",
        "in-use",
        "foreign-dependents",
        "vm-alive",
        "liveness-unknown",
    }
)
OWNERS = frozenset({"start", "stop", "rm", "run"})

VERBS = ("run", "start", "stop", "start", "rm", "create", "attach", "set")
PORTS = (("-p", "9001:81"), ("--unpublish", "9001"), ("--unpublish", "9001", "-p", "9001:82"))
LIVES = ("copy", "copy", "put back", "put back", "reboot", "reboot, put back")

points = st.integers(0, 14)
numbers = st.integers(0, 3)

ACTS = (
    "kill", "hold", "let_go", "rename", "delete", "strip", "copy", "take", "plug", "vlan",
    "address", "down", "unplug", "delete_bridge", "strip_bridge", "flush", "save", "restore",
    "load", "own_rules", "copied_mark", "rule_in_ours", "element_in_ours", "drop_table",
    "drop_element", "strip_element", "bind", "unbind", "recycle",
)  # fmt: skip
OTHERS = (
    ("gc", "--apply"), ("recover",), ("repair",), ("vm", "start", "web"), ("vm", "start", "db"),
    ("vm", "stop", "web", "--timeout", "1"), ("vm", "stop", "db", "--timeout", "1"),
    ("vm", "rm", "web", "--force"), ("network", "rm", "lan"), ("gc", "--plan"),
)  # fmt: skip

COMMANDS = {
    "gc": ("gc", "--apply"),
    "recover": ("recover",),
    "repair": ("repair",),
}
# what a step is, the simplest first; what stands twice is as likely again
KINDS = (
    *VERBS, *VERBS, "network", "network", *COMMANDS, "gc", "recover", "kill", "kill", *ACTS,
    "save plan", "apply saved", *LIVES, "ADD", "ADD", "container ends", *containers.STEPS,
)  # fmt: skip

acts = st.tuples(st.sampled_from(ACTS), numbers)
interruptions = st.one_of(
    st.just(()),
    st.just(()),
    points.map(lambda n: ("kill", n) if n else ()),
    points.map(lambda n: ("kill", n) if n else ()),
    st.tuples(st.just("stop"), st.integers(1, 18), st.one_of(acts, st.sampled_from(OTHERS))),
)

steps = st.tuples(st.sampled_from(KINDS), numbers, interruptions)


def _timeless(plan: str) -> str:
    """A plan without when it was made, and without how processes died: zombies are reaped."""
    return re.sub(r'"(pid \d+ started |made": ")[^"]*"', '"\\1"', plan)


class Machine(RuleBasedStateMachine):
    """One host, from its first command to the removal of everything."""

    make_world: ClassVar[Callable[[], World]]
    plan_every: ClassVar[int] = 1
    counts: ClassVar[Counter[str]] = Counter()  # of all sequences, for the long job's last line

    def __init__(self) -> None:
        super().__init__()
        self.world = type(self).make_world()
        self.made: set[int] = set()  # devices of others
        self.pids: set[int] = set()  # processes of others
        self.guests: list[int] = []  # what `vm attach` may be given
        self.held: list[Ref] = []
        self.containers = containers.Containers(self.world)
        self.forked = False  # an older store was put back across a reboot
        self.palette: Sequence[str] = ACTS
        self.plans = 0
        self.steps = 0
        self.failed = False
        self.backed_up = -1
        self.saved = False
        self.dead: list[int] = []
        self.disturbed = False  # somebody else was at our things
        self.depth = 0
        self.seen: tuple[Look, Record] = (self.world.look(), self.world.record())

    # -- asking ------------------------------------------------------------------------------------

    def fail(self, words: str) -> None:
        """Tell what is wrong, and how it came to be."""
        self.failed = True
        raise AssertionError(f"{words}\n\n{self.world.script()}\n")

    def look(self) -> tuple[Look, Record]:
        return self.world.look(), self.world.record()

    def check(
        self, before: tuple[Look, Record], after: tuple[Look, Record], owner: str | None
    ) -> None:
        """The laws of one stretch of a run of hvtx, in which nobody else acted."""
        old, known = before
        new, record = after
        pids = self.pids | set(self.guests if owner != "ext" else ())
        theirs = laws.foreign_objects(old, known, self.made, pids)
        gone = laws.changed(theirs, laws.everything(new))
        if gone:
            self.fail("a stranger's thing was changed:\n" + "\n".join(gone))
        for vm, pid in laws.alive(old, known).items():
            if vm == owner:
                continue
            if new.processes.get(pid) != old.processes[pid]:
                self.fail(f"the process {pid} of VM {vm} was ended")
            lost = laws.changed(laws.needed(old, known, vm), laws.still(new))
            if lost:
                self.fail(f"VM {vm} lives, and lost:\n" + "\n".join(lost))
        for vm in laws.attached(old, known) - {owner}:
            lost = laws.changed(laws.needed(old, known, vm), laws.still(new))
            if lost:
                self.fail(f"attachment {vm} lives, and lost:\n" + "\n".join(lost))
        loose = laws.unmarked(old, new, record, self.made)
        if not self.forked:
            loose += laws.off_record(new, record, self.made)
        if loose:
            self.fail("not on record:\n" + "\n".join(loose))
        recorded = {r.observed.get("pid") for r in record.rows if r.kind == Kind.PROCESS}
        recorded |= {r.observed.get(HOLDER, {}).get("pid") for r in record.rows}
        stray = set(new.processes) - recorded - self.pids - set(self.guests)
        if stray:
            self.fail(f"VM processes off the record: {stray}")

    # -- commands ------------------------------------------------------------------------------------

    def command(self, *argv: str | Ref, interruption: tuple[Any, ...] = ()) -> Ran:
        """Run hvtx, perhaps interrupted, and ask the laws."""
        words = [str(word) for word in argv]
        owner = words[2] if words[0] == "vm" and words[1] in OWNERS else None
        if words[0] == WORD:
            owner = containers.owner_of(words)
        before = self.look()
        failpoint, meanwhile, met = "", None, []
        if interruption:
            failpoint = f"*:{interruption[0]}:{interruption[1]}"
        if interruption and interruption[0] == "stop":

            def others() -> None:
                stretch = self.look()
                self.check(before, stretch, owner)
                self.others(interruption[2])
                met.append(self.look())

            meanwhile = others
        self.depth += 1
        ran = self.world.hvtx(*argv, failpoint=failpoint, meanwhile=meanwhile)
        self.depth -= 1
        killed = ran.code == KILLED
        self.counts.update(["commands", *["killed"] * killed, *["met half-way"] * bool(met)])
        self.seen = self.look()
        self.check(met[-1] if met else before, self.seen, owner)
        if ran.code not in TOLD and ran.code != KILLED:
            self.fail(f"exit {ran.code}: {ran.err}{ran.out}")
        if not interruption:
            self.check_whole(words, ran, before)
        return ran

    def others(self, what: tuple[Any, ...]) -> None:
        """What happens while a command is stopped: an act, or another command."""
        if isinstance(what[-1], int):
            self.foreign_object(self.palette[ACTS.index(what[0]) % len(self.palette)], what[1])
        elif self.depth < 2:
            self.command(*what)

    def kept(self, row: int) -> bool:
        """Whether the plan says of a row that somebody else stands in its way."""
        items = json.loads(self.world.hvtx("gc", "--plan", "--json", told=False).out)["items"]
        reasons = {item["reason"] for item in items if (item["record"] or {}).get("id") == row}
        return bool(reasons & KEPT)

    def check_whole(self, words: list[str], ran: Ran, before: tuple[Look, Record]) -> None:
        """Whole or not at all, for a command that nobody interrupted."""
        look, record = self.seen
        if words[0] == WORD:
            found = containers.problem(words, ran, before[1], self.seen, self.kept)
            if found:
                self.fail(found)
            return
        verb = words[1] if words[0] == "vm" else words[0]
        vm = words[2] if words[0] == "vm" else ""
        if verb in ("start", "run") and ran.code == 0:
            missing = laws.lacking(look, record, vm)
            if missing or (vm != "ext" and vm not in laws.alive(look, record)):
                self.fail(f"VM {vm} was started, but:\n" + "\n".join(missing or ["not running"]))
        if verb in ("start", "run") and ran.code not in (0, 75) and not before[1].of(vm):
            left = [row for row in record.of(vm) if not self.kept(row.id)]
            if left:
                self.fail(f"the start of {vm} failed, and left {left}")
        if verb in ("stop", "rm") and ran.code == 0 and record.of(vm):
            self.fail(f"VM {vm} was stopped, and this is left: {record.of(vm)}")
        if verb == "recover" and ran.code in (0, 9) and not self.depth:
            working = {r.operation for r in record.rows if self.kept(r.id)}
            if set(record.open) - working:
                self.fail(f"after recover operations are open: {record.open}")
        if verb == "repair" and ran.code == 0 and len(words) == 1:
            for name in laws.alive(look, record):
                missing = laws.lacking(look, record, name)
                if missing:
                    self.fail(f"repaired, but VM {name} lacks:\n" + "\n".join(missing))

    # -- steps ---------------------------------------------------------------------------------------

    @rule(step=steps)
    def step(self, step: tuple[str, int, tuple[Any, ...]]) -> None:
        """One step; the plan is asked for after it."""
        kind, number, interruption = step
        self.counts["steps"] += 1
        if kind in VERBS:
            self.vm_command(kind, number, interruption)
        elif kind in ACTS:
            self.foreign_object(self.palette[ACTS.index(kind) % len(self.palette)], number)
            self.seen = self.look()
        elif kind in LIVES:
            self.a_life_or_a_store(kind, OTHERS[number])
        elif kind == "network":
            self.a_network(number, interruption)
        elif kind == "save plan":
            self.save_plan()
        elif kind == "apply saved" and self.plans:
            self.apply_saved(number, interruption)
        elif kind in COMMANDS:
            self.command(*COMMANDS[kind], interruption=interruption)
        elif kind in containers.STEPS:
            self.a_container(kind, number, interruption)
        self.steps += 1
        if self.steps % self.plan_every == 0:
            self.plan()

    @initialize(
        ready=st.sampled_from((True, True, True, False)),
        palette=st.lists(st.sampled_from(ACTS), min_size=2, max_size=4, unique=True),
    )
    def begin(self, ready: bool, palette: Sequence[str] = ACTS) -> None:
        """How it begins, and the few acts of others that this sequence is made of."""
        self.palette = palette
        if ready:
            for name in SUBNETS:
                self.create_network(name, ())
            self.vm_command("run", 0, ())

    def a_container(self, kind: str, number: int, interruption: tuple[Any, ...]) -> None:
        """One ends, or its runtime asks for something."""
        if kind == "container ends":
            self.counts["containers ended"] += 1
            self.containers.end(containers.NAMES[number % len(containers.NAMES)])
        else:
            words = self.containers.words(kind, number, self.seen)
            self.command(*words, interruption=interruption)
        self.seen = self.look()

    def create_network(self, name: str, interruption: tuple[Any, ...]) -> None:
        subnets = [word for subnet in SUBNETS[name] for word in ("--subnet", subnet)]
        self.command("network", "create", name, *subnets, interruption=interruption)

    def a_network(self, number: int, interruption: tuple[Any, ...]) -> None:
        """One that is not there is made; else one is removed, or refused to be."""
        missing = [name for name in SUBNETS if name not in self.seen[1].networks]
        if missing:
            self.create_network(missing[0], interruption)
        else:
            name = list(SUBNETS)[number % len(SUBNETS)]
            self.command("network", "rm", name, interruption=interruption)

    def spec(self, name: str) -> tuple[str, ...]:
        """The arguments that make each of the three VMs."""
        return {
            "web": ("--network", "net", "-p", f"{PORT}:80", "--", "sleep", "86400"),
            "db": (
                *("--network", "net", "--network", "lan", "--autostart", "--"),
                *self.world.holder("{tap}"),
            ),
            "ext": ("--network", "lan", "--hypervisor", "external"),
        }.get(name, ())  # what stands for an attachment is made by a runtime

    def vm_command(self, verb: str, number: int, interruption: tuple[Any, ...]) -> None:
        """A command on a VM that it fits; on any if there is none such, to be refused."""
        look, record = self.seen
        living = laws.alive(look, record)
        fitting = {
            "run": [vm for vm in VMS if vm not in record.vms],
            "create": [vm for vm in VMS if vm not in record.vms],
            "start": [vm for vm in record.vms if vm not in living],
            "stop": [vm for vm in record.vms if record.of(vm)],
            "rm": list(record.vms),
            "attach": ["ext"],
            "set": [vm for vm in ("web",) if vm in record.vms],
        }[verb]
        if not fitting and number < 3:
            verb = {"run": "stop", "create": "rm"}.get(verb, "run")
            fitting = list(record.vms) if verb in ("stop", "rm") else []
            fitting = fitting or [vm for vm in VMS if vm not in record.vms]
        pool = fitting or list(VMS)
        name = pool[number % len(pool)]
        more: tuple[str | Ref, ...] = {
            "run": self.spec(name),
            "create": self.spec(name),
            "stop": ("--timeout", "1", *(("--force",) if number > 1 else ())),
            "rm": ("--force",) if number != 1 else (),
            "set": PORTS[number % len(PORTS)],
        }.get(verb, ())
        if verb == "attach":
            pid = self.world.act("guest")
            self.guests.append(pid)
            more = ("--pid", Ref(str(pid), '"$guest"'))
        self.command("vm", verb, name, *more, interruption=interruption)

    def plan(self, *out: str | Ref) -> None:
        """A plan changes nothing, twice."""
        before = self.look()
        first = self.world.hvtx("gc", "--plan", "--json", *out, told=bool(out))
        second = self.world.hvtx("gc", "--plan", "--json", told=False)
        after = self.look()
        if before[0].place() != after[0].place() or before[1].seq != after[1].seq:
            self.fail("gc --plan changed something")
        one, other = (_timeless(ran.out) for ran in (first, second))
        if one != other:
            lines = difflib.unified_diff(one.splitlines(), other.splitlines(), lineterm="")
            self.fail("two plans differ:\n" + "\n".join(lines))
        if first.code != 0:
            self.fail(f"gc --plan: exit {first.code}\n{first.err}")
        self.judged_one_by_one(first)

    def judged_one_by_one(self, first: Ran) -> None:
        """VMs of which nothing needs judging are told of as if each row had been judged.

        A plan of everything has more items of others'.
        """
        plans = (json.loads(_timeless(ran.out)) for ran in (first, self.world.plan_row_by_row()))
        one, other = (
            [item for item in plan["items"] if item["reason"] != "foreign"] for plan in plans
        )
        if one != other:
            lines = difflib.unified_diff(
                json.dumps(one, indent=1).splitlines(), json.dumps(other, indent=1).splitlines()
            )
            self.fail("a plan says otherwise of VMs than row by row:\n" + "\n".join(lines))

    def _plan_file(self, number: int) -> Ref:
        return Ref(str(self.world.place / f"{number}.json"), f"{number}.json")

    def save_plan(self) -> None:
        self.plans += 1
        self.plan("--out", self._plan_file(self.plans))

    def apply_saved(self, number: int, interruption: tuple[Any, ...]) -> None:
        path = self._plan_file(max(1, self.plans - number))
        before = self.look()
        ran = self.command("gc", "--apply", path, interruption=interruption)
        stopped = interruption and interruption[0] == "stop"
        if ran.code == 8 and not stopped and before[0].place() != self.seen[0].place():
            self.fail("a stale plan changed something")

    # -- others ----------------------------------------------------------------------------

    def foreign_object(self, name: str, number: int) -> None:
        """One act of somebody else, if there is anything to act on."""
        look, record = self.look()
        before = set(look.links)
        self.counts["strangers' acts"] += 1
        getattr(self, f"_{name}")(number, look, record)
        after, record = self.look()
        fresh = set(after.links) - before
        self.made |= fresh
        self.made &= set(after.links)
        for index, link in after.links.items():
            # a device of ours whose mark is gone is no longer ours to touch
            if index in look.links and look.links[index].alias != link.alias:
                self.disturbed = True
        if name not in ("kill", "bind", "unbind", "save", "own_rules"):
            self.disturbed = True

    def _devices(self, record: Record) -> list[tuple[Ref, str]]:
        """The devices on record, with their marks, in the order of their VMs."""
        found = []
        for vm in record.vms:
            taps = [row for row in record.of(vm) if row.kind in (Kind.TAP, Kind.VETH)]
            found += [(Ref(row.key, f"$(device {vm} {n})"), row.mark) for n, row in enumerate(taps)]
        return found

    def _pick(self, record: Record, number: int) -> Ref | None:
        devices = self._devices(record)
        return devices[number % len(devices)][0] if devices else None

    def _bridge(self, record: Record, number: int) -> Ref | None:
        rows = [r for r in record.rows if r.kind == Kind.BRIDGE and r.network]
        names = {identity: name for name, identity in record.networks.items()}
        rows = sorted((r for r in rows if r.network in names), key=lambda r: names[r.network or ""])
        if not rows:
            return None
        row = rows[number % len(rows)]
        return Ref(row.key, f"$(bridge {names[row.network or '']})")

    def _table(self, record: Record) -> Ref:
        return Ref(f"hvtx-{record.installation}", "$(table)")

    def _kill(self, number: int, look: Look, record: Record) -> None:
        living = sorted(laws.alive(look, record).items())
        if living:
            vm, pid = living[number % len(living)]
            self.world.act("kill", pid=Ref(str(pid), f"$(pid {vm})"))
            self.dead.append(pid)
            if pid in self.guests:
                self.guests.remove(pid)

    def _recycle(self, number: int, look: Look, record: Record) -> None:
        gone = [pid for pid in self.dead if pid not in look.processes]
        if gone and self.world.can_recycle:
            pid = gone[number % len(gone)]
            self.world.act("recycle", pid=str(pid))
            self.pids.add(pid)

    def _hold(self, number: int, look: Look, record: Record) -> None:
        device = self._pick(record, number)
        if device:
            self.world.act("hold", device=device)
            self.held.append(device)

    def _let_go(self, number: int, look: Look, record: Record) -> None:
        if self.held:
            self.world.act("let_go", device=self.held.pop(number % len(self.held)))

    def _on_device(self, act: str, number: int, record: Record, **words: str) -> None:
        device = self._pick(record, number)
        if device:
            self.world.act(act, device=device, **words)

    def _rename(self, number: int, look: Look, record: Record) -> None:
        self._on_device("rename", number, record, name=f"moved{number}")

    def _delete(self, number: int, look: Look, record: Record) -> None:
        self._on_device("delete", number, record)

    def _strip(self, number: int, look: Look, record: Record) -> None:
        self._on_device("alias", number, record, mark="")

    def _down(self, number: int, look: Look, record: Record) -> None:
        self._on_device("down", number, record)

    def _unplug(self, number: int, look: Look, record: Record) -> None:
        self._on_device("unplug", number, record)

    def _vlan(self, number: int, look: Look, record: Record) -> None:
        self._on_device("vlan", number, record, name=f"vlan{number}")

    def _address(self, number: int, look: Look, record: Record) -> None:
        self._on_device("address", number, record, address=f"198.51.100.{number + 1}/24")

    def _take(self, number: int, look: Look, record: Record) -> None:
        """A device under the name of one of ours, which has gone or moved."""
        device = self._pick(record, number)
        if device and device.name not in {link.name for link in look.links.values()}:
            self.world.act("tap", name=device)

    def _copy(self, number: int, look: Look, record: Record) -> None:
        devices = self._devices(record)
        if devices:
            device, mark = devices[number % len(devices)]
            self.world.act("tap", name=f"copy{number}")
            shown = Ref(mark, device.shell.replace("device", "mark"))
            self.world.act("alias", device=f"copy{number}", mark=shown)

    def _plug(self, number: int, look: Look, record: Record) -> None:
        bridge = self._bridge(record, number)
        if bridge:
            self.world.act("tap", name=f"other{number}")
            self.world.act("plug", name=f"other{number}", device=bridge)

    def _delete_bridge(self, number: int, look: Look, record: Record) -> None:
        bridge = self._bridge(record, number)
        if bridge:
            self.world.act("delete", device=bridge)

    def _strip_bridge(self, number: int, look: Look, record: Record) -> None:
        bridge = self._bridge(record, number)
        if bridge:
            self.world.act("alias", device=bridge, mark="")

    def _flush(self, number: int, look: Look, record: Record) -> None:
        self.world.act("flush")

    def _save(self, number: int, look: Look, record: Record) -> None:
        self.world.act("save")
        self.saved = True

    def _restore(self, number: int, look: Look, record: Record) -> None:
        if self.saved:
            self.world.act("restore")

    def _load(self, number: int, look: Look, record: Record) -> None:
        if self.saved:
            self.world.act("load")

    def _own_rules(self, number: int, look: Look, record: Record) -> None:
        self.world.act("own_rules", subnet="10.77.0.0/24")

    def _copied_mark(self, number: int, look: Look, record: Record) -> None:
        devices = self._devices(record)
        if devices:
            device, mark = devices[number % len(devices)]
            shown = Ref(mark, device.shell.replace("device", "mark"))
            self.world.act("copied_mark", subnet="10.77.0.0/24", mark=shown)

    def _ours_there(self, look: Look, record: Record) -> bool:
        return ("inet", f"hvtx-{record.installation}") in look.tables

    def _rule_in_ours(self, number: int, look: Look, record: Record) -> None:
        if self._ours_there(look, record):
            self.world.act("rule_in_ours", table=self._table(record))

    def _in_ours(self, act: str, number: int, look: Look, record: Record) -> None:
        if self._ours_there(look, record):
            self.world.act(act, table=self._table(record), address=f"10.77.0.{number + 2}")

    def _element_in_ours(self, number: int, look: Look, record: Record) -> None:
        self._in_ours("element_in_ours", number, look, record)

    def _drop_element(self, number: int, look: Look, record: Record) -> None:
        self._in_ours("drop_element", number, look, record)

    def _strip_element(self, number: int, look: Look, record: Record) -> None:
        self._in_ours("strip_element", number, look, record)

    def _drop_table(self, number: int, look: Look, record: Record) -> None:
        if self._ours_there(look, record):
            self.world.act("drop_table", table=self._table(record))

    def _bind(self, number: int, look: Look, record: Record) -> None:
        self.world.act("bind", port=PORT)

    def _unbind(self, number: int, look: Look, record: Record) -> None:
        self.world.act("unbind", port=PORT)

    # -- lives and stores -----------------------------------------------------------------------

    def a_life_or_a_store(self, what: str, argv: tuple[str, ...]) -> None:
        """Rare things: reboots, copies of the store and what comes of putting them back."""
        older = 0 <= self.backed_up < self.seen[1].seq
        if what == "copy" and self.seen[1].seq:
            self.world.act("backup")
            self.backed_up = self.seen[1].seq
        elif what == "put back" and older:
            self.an_old_store_is_refused(argv)
        elif what == "reboot":
            self.reboot()
        elif what == "reboot, put back" and older:
            self.world.act("old_store")
            self.forked = True
            self.reboot()

    def reboot(self) -> None:
        self.world.act("reboot")
        for known in (self.made, self.pids, self.guests, self.held, self.dead):
            known.clear()  # type: ignore[attr-defined]
        self.containers.reboot()
        self.disturbed = False
        self.seen = self.look()

    def an_old_store_is_refused(self, argv: tuple[str, ...]) -> None:
        """An older copy of the store, in the same life: whoever would act on it is refused."""
        self.world.act("old_store")
        before = self.world.look()
        ran = self.world.hvtx(*argv)
        if before.place() != self.world.look().place():
            self.fail("something was done by an old store")
        if ran.code != 7:
            self.fail(f"an old store was not refused: exit {ran.code}\n{ran.err}")
        self.world.act("new_store")

    # -- the end -----------------------------------------------------------------------------------------

    def teardown(self) -> None:
        try:
            if not self.failed:
                self.end()
                self.counts["sequences"] += 1
        finally:
            self.world.close()

    def end(self) -> None:
        """Others leave, VMs die, everything is collected and removed: nothing is left."""
        if not self.world.record().installation:
            return
        self.command("recover")
        self.command("gc", "--apply")
        self.world.lines.append("# strangers leave, VMs end; the rest is collected and removed")
        self.strangers_leave()
        look, _ = self.look()
        for pid in look.processes:
            self.world.act("kill", pid=str(pid))
        self.containers.end_all()
        self.guests.clear()
        self.disturbed = False
        self.quiet("recover")
        more = ("--unrecorded",) if self.forked else ()
        for _ in range(4):
            self.quiet("gc", "--apply", *more)
            if not self.acting():
                break
        else:
            self.fail(f"gc does not end: {self.acting()}")
        # 9: a restored element of an earlier row stood in the place of one; gc takes it now
        for vm in self.world.record().vms:
            self.quiet("vm", "rm", vm, "--force", codes=(0, 9))
        for network in self.world.record().networks:
            self.quiet("network", "rm", network, codes=(0, 9))
        for _ in range(3):
            self.quiet("gc", "--apply", *more)
        for vm in self.world.record().vms:
            self.quiet("vm", "rm", vm, "--force")
        for network in self.world.record().networks:
            self.quiet("network", "rm", network)
        self.nothing_is_left()

    def quiet(self, *argv: str, codes: tuple[int, ...] = (0,)) -> None:
        ran = self.world.hvtx(*argv)
        if ran.code not in codes:
            self.fail(f"at the end: exit {ran.code}\n{ran.err}{ran.out}")

    def acting(self) -> list[dict[str, Any]]:
        plan = json.loads(self.world.hvtx("gc", "--plan", "--json", told=False).out)
        return [item for item in plan["items"] if item["action"] != "skip"]

    def strangers_leave(self) -> None:
        """All that is not ours goes: what others made, and what they made their own."""
        while self.held:
            self.world.act("let_go", device=self.held.pop())
        self.world.act("unbind", port=PORT)
        for _ in range(9):
            look, record = self.look()
            found = laws.foreign_objects(look, record, self.made, set())
            links = [key[1] for key in found if key[0] == "link" and key[1] != 1]
            if not links:
                break
            self.world.act("delete", device=look.links[links[0]].name)
        for key in found:
            if key[0] == "address" and key[1] in look.links and key[1] != 1:
                self.world.act("no_address", device=look.links[key[1]].name, address=key[2])
        self.rules_leave(found, look)

    def rules_leave(self, found: dict[laws.Key, Any], look: Look) -> None:
        """Others' tables, and what they put into ours; told in one line."""
        socket = self.world.nftables()
        tables = [key[1:] for key in found if key[0] == "table"]
        commands = [nfmessages.delete_table(*place) for place in tables]
        for key, value in found.items():
            if key[1:3] in tables:
                continue
            if key[0] == "rule":
                commands.append(nfmessages.delete_rule(nfanswers.Rule(*key[1:], *value)))
            elif key[0] == "element":
                commands.append(nfmessages.delete_element(SetElement(*key[1:])))
        for command in commands:
            socket.batch([command])
        socket.close()

    def nothing_is_left(self) -> None:
        look, record = self.look()
        left = [link for index, link in look.links.items() if index != 1]
        if left or look.tables or look.processes:
            self.fail(f"left at the end: {left} {look.tables} {look.processes}")
        if record.rows or record.open:
            self.fail(f"on record at the end: {record.rows} {record.open}")
