"""The crash matrix: kill a command before its system calls, and `recover` before its own.

`Matrix.crash` restores the state before the command, kills it before one call, and looks at what is
left (`integration.lab.crash_state`). Each state that was not met before is a node; `Matrix.close` takes every
node and kills `recover` in it before each of its calls, which may lead to new nodes, until there are
none: so any number of crashes, one after the other, is covered. In `recover` a call that follows an
inert one (`integration.lab.syscalls`) is skipped as the same place; killing the commands themselves skips
none, which is what shows that the list is right.

`Matrix.judge` is the oracle of a node: after one `recover` that nobody kills the host is as before
the command or as after it, no operation is open, a plan is empty, and whoever lives beside noticed
nothing.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from integration import lab
from integration.lab.beside import Beside, foreign_objects
from integration.lab.checkpoint import Rewinder, Saved, reap
from integration.lab.crash_state import Eye, Raw, Seen
from integration.lab.program import Forked
from integration.lab.stepper import Stepped, Stepper, run_stepped
from integration.lab.syscalls import Call, is_of_files
from integration.lab.vms import unheld_ports

RECOVER = ("recover",)
T = TypeVar("T")
_TRIES = 8
_LEEWAY = 40  # calls


@dataclass
class Node:
    """A distinct state that a crash left."""

    saved: Saved
    depth: int  # how many crashes lead to it
    where: str  # the first way to it, for people
    parent: Node | None
    again: Callable[[int], Seen]  # does, in the parent's state, what led to it, for the nth time
    judged: bool = False


@dataclass
class Figures:
    """What was done; ``recover_kills`` beside ``kills``, which are the command's."""

    calls: int = 0
    kills: int = 0
    states: int = 0
    crash_states: int = 0
    recover_kills: int = 0
    depth: int = 0
    closed: int = 0  # states in which `recover` was killed wherever it changes something
    telling: int = 0  # calls that may change something
    remade: int = 0  # states that were reached again by another crash, and not put back
    began: float = field(default_factory=time.monotonic)

    def line(self) -> str:
        """One line for a log."""
        runs = self.kills + self.recover_kills
        seconds = time.monotonic() - self.began
        return (
            f"{self.calls} calls, {self.kills} killed before, {self.crash_states} states,"
            f" {self.recover_kills} kills of recover in {self.closed}, {self.states} in all,"
            f" {self.depth} crashes deep, {self.remade} reached again, {seconds:.0f} s, {runs / max(seconds, 0.001):.1f} runs/s"
        )


class Matrix:
    """One command on one backend, in the namespace of the calling thread."""

    def __init__(
        self,
        hvtx: Forked,
        prepare: Callable[[], None],
        argv: Callable[[], tuple[str, ...]],
        *,
        reset: Callable[[], None],
        host: Callable[[], dict[str, Any]],
        beside: Beside | None = None,
        how: str = "settles",
        spared: Callable[[], set[int]] = set,
    ) -> None:
        """``prepare`` makes the state before, ``reset`` takes everything of it away.

        ``how`` a killed command ends, see `test_crash.Command`; ``spared`` are processes that are
        neither hvtx's nor a VM's.
        """
        self.hvtx, self.prepare, self.argv, self.host = hvtx, prepare, argv, host
        self.reset, self.beside, self.how, self.spared = reset, beside, how, spared
        self.failures: list[str] = []
        self.figures = Figures()
        self.nodes: dict[str, Node] = {}
        self.places: set[str] = set()  # states, and what stands at a place before the kill
        self.behind_inert: dict[str, str] = {}  # states met, until they are met otherwise
        self.eye = Eye(os.environ["HVTX_STATE_DIR"], os.environ["HVTX_RUN_DIR"])
        self.rewinder = Rewinder(self.eye)
        gc.collect()
        gc.freeze()  # pages that children would copy
        self.prepare()
        self._keep_before()

    def _keep_before(self) -> None:
        self.rewinder.spared = self.spared()
        self.dump = lab.dump()
        self.host_before = self.host()
        self.theirs = foreign_objects(self.dump)
        self.its = self.beside.things(self.dump) if self.beside else []
        self.before = self.rewinder.save(self.eye.look())
        self.now = self.before.seen
        self.places.add(self.now.name)

    def close_eye(self) -> None:
        """Give back what looks."""
        self.eye.close()

    # -- ways to a state -----------------------------------------------------------------------

    def whole(self) -> Stepped:
        """Run the command to its end; learn its calls, and the host after it."""
        self.go(None)
        ran = run_stepped(self.argv(), self.hvtx.environment, watch=lambda call: False)
        assert ran.ran.code == 0, ran.ran
        self.see()
        self.figures.calls, self.figures.telling = ran.calls, ran.telling
        self.host_after = self.host()
        return ran

    def see(self, *known: Seen) -> Seen:
        """Look at what is there now."""
        reap()
        self.now = self.eye.look(known)
        return self.now

    def discover(self, argv: tuple[str, ...], where: str, node: Node | None) -> int:
        """Kill a command wherever it leaves a state that no crash left before; how many kills.

        The command runs under the eye: after each call that may have changed something all stands
        still, and what a crash would leave there is looked at. Memory, locks and descriptors die
        with the process and are not looked at. Where something stands that dies with the process,
        or waits for it, the kill shows what is left. Again and again from the same state, until
        the command comes to its end without having passed a place that is new.
        """
        kills = start = 0
        while True:
            self.go(node)
            passed: list[str] = []
            watch = self._watch(passed)
            ran = run_stepped(argv, self.hvtx.environment, watch=watch, watch_from=start)
            if not ran.killed:
                assert ran.ran.code == 0, (where, ran.ran)
                self.see()
                return kills
            kills += 1
            # what comes before has been looked at; how many calls it takes varies by a few
            start = max(0, ran.calls - _LEEWAY)
            self._arrive(
                f"{where} call {ran.calls}", node, ran, partial(self._once, argv, passed[-1])
            )

    def sample(self, most: int, part: slice) -> None:
        """Kill the command at ``most`` of the places where something has changed, evenly taken.

        Of these at those in ``part``.
        """
        self.go(None)
        places: list[int] = []
        last: Raw | None = None

        def look(call: Call) -> bool:
            nonlocal last
            raw = self.eye.raw_of_files(last) if last and is_of_files(call) else self.eye.raw()
            if raw != last:
                places.append(stepper.count)
            last = raw
            return False

        stepper = Stepper(self.argv(), self.hvtx.environment, watch=look)
        ran = stepper.run()
        assert ran.ran.code == 0, ran.ran
        self.see()
        self.figures.calls, self.host_after = ran.calls, self.host()
        for call in evenly(places, most)[part]:
            met = len(self.nodes)
            self.crash(call)
            if len(self.nodes) > met:  # it stands there now: judged later, it is to be put back
                self.judge(next(reversed(self.nodes.values())))

    def _watch(self, passed: list[str]) -> Callable[[Call], bool]:
        """Looks at each place; True at the first one that is new, whose name is added."""
        last: Raw | None = None

        def look(call: Call) -> bool:
            nonlocal last
            raw = self.eye.raw_of_files(last) if last and is_of_files(call) else self.eye.raw()
            if raw == last:
                return False
            last = raw
            name = self.eye.told(raw).name
            if name in self.places:
                return False
            self.places.add(name)
            passed.append(name)
            return True

        return look

    def _once(self, argv: tuple[str, ...], place: str, _attempt: int) -> Seen:
        """Kill a command at a known place."""
        last = self.now.raw

        def look(call: Call) -> bool:
            nonlocal last
            raw = self.eye.raw_of_files(last) if is_of_files(call) else self.eye.raw()
            changed, last = raw != last, raw
            return changed and self.eye.told(raw).name == place

        run_stepped(argv, self.hvtx.environment, watch=look)
        return self.see()

    def go(self, node: Node | None) -> None:
        """Bring the host to a node's state, or to the one before the command."""
        saved = node.saved if node else self.before
        done = self.rewinder.put(saved, self.now)
        if done is not None:
            self._at(node, done)
            return
        self.figures.remade += 1
        if node is None:
            self.reset()
            self.prepare()
            text = self.before.seen.text
            self._keep_before()
            found = lab.difference(text.split("\n"), self.now.text.split("\n"))
            assert not found, (
                f"the state before is another when it is made again\n{found}\n{self.rewinder.why}"
            )
            return
        why = self.rewinder.why
        for attempt in range(_TRIES):
            self.now = self.eye.look()
            self.go(node.parent)
            self.now = node.again(attempt)
            if self.now.text == node.saved.seen.text:
                self._at(node, self.rewinder.save(self.now))
                return
        raise AssertionError(f"the state of {node.where} cannot be reached again: {why}")

    def _at(self, node: Node | None, saved: Saved) -> None:
        self.now = saved.seen
        if node is None:
            self.before = saved
        else:
            node.saved = saved

    def crash(self, call: int) -> Stepped:
        """Kill the command before its nth call; the state is a node afterwards."""
        self.go(None)
        ran = run_stepped(self.argv(), self.hvtx.environment, kill_at=call)
        self.figures.kills += 1
        name = self.see(self.before.seen).name
        self._arrive(f"call {call}", None, ran, partial(self._at_call, call, name))
        return ran

    def crash_at_each(self) -> None:
        """Kill the command before each of its calls.

        How many calls it takes varies by a few, so a place may be passed over; where a state has
        been met behind an inert call only, the places around are tried again.
        """
        for call in range(1, self.figures.calls + 1):
            self.crash(call)
        for name, where in list(self.behind_inert.items()):
            nth = where.rpartition(" ")[2]
            near = range(max(1, int(nth) - _LEEWAY), int(nth) + _LEEWAY) if nth.isdigit() else ()
            for call in [*near] * _TRIES:
                if name in self.behind_inert:
                    self.crash(call)

    def _at_call(self, call: int, name: str, attempt: int) -> Seen:
        """By what stands there, or by its number, which may be another by a few."""
        if attempt % 2 == 0:
            return self._once(self.argv(), name, attempt)
        run_stepped(self.argv(), self.hvtx.environment, kill_at=call + attempt // 2)
        return self.see()

    def arrive(self, where: str, ran: Stepped) -> Node:
        """Take what a kill by somebody else has left for a state; it must be one to put back."""
        return self._arrive(where, None, ran, self._cannot)

    def _cannot(self, _attempt: int) -> Seen:
        return self.now  # which is not the state that was asked for

    def _arrive(
        self, where: str, parent: Node | None, ran: Stepped, again: Callable[[int], Seen]
    ) -> Node:
        seen = self.see(parent.saved.seen if parent else self.before.seen, self.now)
        self.places.add(seen.name)
        if seen.text == self.before.seen.text:
            where = "before"
        if ran.inert and seen.name not in self.nodes:
            self.behind_inert.setdefault(seen.name, where)
        if not ran.inert:
            self.behind_inert.pop(seen.name, None)
        if seen.name not in self.nodes:
            depth = parent.depth + 1 if parent else 1
            self.nodes[seen.name] = Node(self.rewinder.save(seen), depth, where, parent, again)
            self.figures.depth = max(self.figures.depth, depth)
            self.figures.states = len(self.nodes)
        return self.nodes[seen.name]

    # -- the oracle ----------------------------------------------------------------------------

    def judge(self, node: Node) -> None:
        """One `recover` that nobody kills, and everything is as it should be."""
        node.judged = True
        self.go(node)
        try:
            self.hvtx(*RECOVER)
            self.check()
        except AssertionError as problem:
            self.failures.append(f"{node.where}: {problem}")
        self.see()

    def check(self) -> None:
        """The oracle itself, after `recover`."""
        open_ = self.hvtx("intents", "--json").json()["operations"]
        assert open_ == [], open_
        assert not (bare := unheld_ports(self.hvtx)), f"ports that nobody holds: {bare}"
        if self.how == "again":
            self.hvtx(*self.argv())
        elif self.how == "collects":
            self.hvtx("gc", "--apply")
        plan = self.hvtx("gc", "--plan", "--detailed-exitcode", code=None)
        assert plan.code == 0, f"a second plan is not empty: {plan}"
        dump = lab.dump()
        assert not (found := lab.difference(self.theirs, foreign_objects(dump))), (
            f"strangers: {found}"
        )
        if self.beside is not None:
            found = lab.difference(self.its, self.beside.things(dump))
            assert not found, f"the VM beside: {found}"
            assert self.beside.is_well(), "the VM beside is not well"
        if self.how == "collects":
            return
        now = self.host()
        undone = lab.difference(self.host_before, now) if self.how == "settles" else "-"
        done = lab.difference(self.host_after, now)
        assert not undone or not done, f"\nbefore:\n{undone}\nafter:\n{done}"

    # -- every number of crashes -----------------------------------------------------------------

    def close(self, known: set[str], most: int | None = None) -> None:
        """Judge every state; kill `recover` everywhere in every state until no state is new.

        ``known``: states that another command's search has closed already on the same backend;
        they are judged here as well, since "before" and "after" are this command's. ``most``: in
        how many of the states `recover` is killed, evenly taken, instead of in all.
        """
        self.figures.crash_states = len(self.nodes)
        chosen = None if most is None else evenly(list(self.nodes), most)
        done: set[str] = set()
        while pending := [name for name in self.nodes if name not in done]:
            for name in pending:
                node = self.nodes[name]
                if not node.judged:
                    self.judge(node)
                done.add(name)
                if name not in known if chosen is None else name in chosen:
                    known.add(name)
                    self.figures.recover_kills += self.discover(
                        RECOVER, f"{node.where}, recover killed at", node
                    )
                    self.figures.closed += 1


def evenly(things: list[T], most: int) -> list[T]:
    """``most`` of the things, in their order and from one end to the other."""
    if len(things) <= most:
        return things
    return [things[(2 * n + 1) * len(things) // (2 * most)] for n in range(most)]
