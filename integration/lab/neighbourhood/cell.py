"""One cell of the table: a neighbour and hvtx on one host, started in one order. Faults are words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from integration import lab
from integration.lab.neighbourhood.flows import inside
from integration.lab.neighbourhood.host import Host
from integration.lab.neighbourhood.rows import Act, Neighbour
from integration.lab.neighbourhood.scene import Said, Scene, commands
from integration.lab.neighbourhood.theirs import theirs

ORDERS = ("neighbour first", "hvtx first")
MENDS = 3  # how often doctor may be asked again: one fix may bring the next fault to light


class Seen(NamedTuple):
    """What a cell gave: how many of the flows passed at each step, and what was wrong."""

    row: str
    order: str
    version: str
    flows: dict[str, str]  # step: flows that passed, and after a fix
    fixes: tuple[str, ...]
    faults: tuple[str, ...]


class Cell:
    """The steps of a cell."""

    def __init__(self, host: Host, row: Neighbour, order: str) -> None:
        self.host, self.row, self.order = host, row, order
        self.scene = Scene(host, firewall=row.firewall)
        self.flows: dict[str, str] = {}
        self.fixes: list[str] = []
        self.faults: list[str] = []

    def run(self) -> Seen:
        """All of them."""
        try:
            if self.row.prepare:
                self.host.sh(self.row.prepare)
            self._start()
            self.judge(Act("start", self.row.start, lasts=False))
            for act in self.row.acts:
                self._act(act)
            self._watched()
            self._end()
        finally:
            self.scene.close()
        version = self.host.sh(self.row.version, code=None) if self.row.version else ""
        words = " ".join(version.split())
        return Seen(
            self.row.name, self.order, words, self.flows, tuple(self.fixes), tuple(self.faults)
        )

    def _start(self) -> None:
        """Both, in their order; hvtx changes nothing of the neighbour's."""
        if self.order == "neighbour first":
            self.host.sh(self.row.start)
            self.scene.others = dict(self.row.parties(self.scene))
            before = theirs(self.host.network_of())
            self.scene.begin()
            self._unchanged("create and start", before)
        else:
            self.scene.begin()
            if left := self.scene.wrong(self.scene.promised()):
                self.fault("before the neighbour started", _told(left))
            self.host.sh(self.row.start)
        self.scene.resolver = self.row.resolver

    def _unchanged(self, step: str, before: object) -> None:
        words = lab.difference(before, theirs(self.host.network_of()))
        if words:
            self.fault(f"{step} changed what is the neighbour's", words[:1500])

    def fault(self, what: str, words: str) -> None:
        """Keep a fault."""
        self.faults.append(f"{what}: {words}")

    def judge(self, act: Act) -> None:
        """Flows, the neighbour's own traffic, and doctor's word; its fix followed and judged."""
        step = act.name
        self.scene.settle()
        self.scene.others = dict(self.row.parties(self.scene))
        stopped, said = self._agree(step)
        passed = str(len(self.scene.promised()) - len(stopped))
        before = dict(stopped)
        followed: list[str] = []
        for _ in range(MENDS):
            todo = _fixes(said.errors)
            if todo in ([], followed):  # content, or said once more what did not help
                break
            self._follow(step, todo)
            followed = todo
            stopped, said = self._agree(f"{step}, fixed")
        if before:
            passed += f" → {len(self.scene.promised()) - len(stopped)}"
        self.flows[step] = passed
        if before and act.lasts:
            self.fault(
                f"{step}: what was fixed before, or needed no fix, is stopped", _told(before)
            )
        if stopped:
            self.fault(f"{step}: stopped though the fixes were followed", _told(stopped))
        elif said.errors:
            self.fault(f"{step}: doctor is not content when its fixes are followed", said.words())
        if act.up:
            self._own(step)

    def _own(self, step: str) -> None:
        """The neighbour's traffic: what it lets pass and what it stops, with the fixes in place."""
        if left := self.scene.wrong(self.row.own(self.scene)):
            self.fault(f"{step}: the neighbour's own traffic", _told(left))

    def _agree(self, step: str) -> tuple[dict[str, str], Said]:
        """The flows that are stopped and what doctor says: an error exactly where one is.

        (What is missing of hvtx's own is an error too: a filter that nobody misses, for instance.)
        """
        stopped, said = self.scene.wrong(self.scene.promised()), self.scene.doctor()
        alarms = [found for found in said.errors if found["check"] != "damage"]
        rightly = bool(said.errors) if stopped else not alarms
        if not rightly or (said.code == 1) is not bool(said.errors):
            told = said.words() or "  nothing"
            self.fault(
                f"{step}: doctor exits {said.code} and {len(stopped)} flows are stopped",
                f"{_told(stopped) or 'none'}; doctor says\n{told}",
            )
        else:
            for name in stopped:
                if unnamed := _not_named(name, said):
                    self.fault(f"{step}: doctor does not name {name}", f"{unnamed}\n{said.words()}")
        return stopped, said

    def _anew(self) -> None:
        """The same address with another MAC, at once: the host has no neighbour entry left.

        (What another guest remembers is its own; a stack that announces itself ends that.)
        """
        done = self.host.ran("hvtx", "vm", "rm", "web", "--force")
        if done.returncode != 0:
            self.fault("vm rm web", f"exit {done.returncode}: {done.stderr.strip()}")
            return
        try:
            self.scene.guest("web")
            self.scene.settle()
        except AssertionError as problem:
            self.fault("vm run web, once more", str(problem))
            return
        with inside(self.scene.places()["two"]):
            lab.run("ip", "neigh", "flush", "all")
        if stopped := self.scene.wrong(self.scene.promised()):
            self.fault("after vm rm and vm run", _told(stopped))

    def _follow(self, step: str, todo: Sequence[str]) -> None:
        """Run the commands of hints, each as it is printed."""
        for command in todo:
            done = self.host.ran("sh", "-c", command)
            self.fixes.append(command)
            if done.returncode != 0:
                words = (done.stderr or done.stdout).strip()
                self.fault(f"{step}: fix `{command}`", f"exit {done.returncode}: {words}")

    def _act(self, act: Act) -> None:
        """Something happens to the neighbour; then `hvtx repair`, and all is judged again."""
        self._do(act)
        self._agree(f"{act.name}, before repair")
        done = self.host.ran("hvtx", "repair")
        if done.returncode != 0:
            self.fault(f"{act.name}: repair", f"exit {done.returncode}: {done.stderr.strip()}")
        self.judge(act)

    def _do(self, act: Act) -> None:
        self.host.sh(f"BRIDGE={self.scene.bridge}\n{act.script}")

    def _watched(self) -> None:
        """The hint about who else takes hold of devices: done, it is gone, and then so is the harm."""
        found = [f for f in self.scene.doctor().findings if _watches(f)]
        if not found:
            return
        for finding in found:
            if not commands(finding["hint"]):
                self.fault("a hint that is no command", str(finding["hint"]))
        self._follow("who else takes hold", _fixes(found))
        left = [f for f in self.scene.doctor().findings if _watches(f)]
        if left:
            words = "; ".join(f"{f['message']}, hint: {f['hint']}" for f in left)
            self.fault("the warning stays when its hint is done", words)
        for act in self.row.acts:
            if act.name == "restart":
                self._do(act)
                self.scene.settle()
                if stopped := self.scene.wrong(self.scene.promised()):
                    self.fault("restart after the hint was done", _told(stopped))

    def _end(self) -> None:
        """gc plans nothing, guests stop, start and are made anew, and all goes without a trace."""
        if items := self.scene.plan():
            self.fault("gc would act", "; ".join(str(item["message"]) for item in items))
        for verb in ("stop", "start"):
            done = self.host.ran("hvtx", "vm", verb, "web")
            if done.returncode != 0:
                words = done.stderr.strip()
                self.fault(f"vm {verb} web", f"exit {done.returncode}: {words}")
        self._anew()
        before = theirs(self.host.network_of())
        try:
            self.scene.end()
        except AssertionError as problem:
            self.fault("the end", str(problem))
        self._unchanged("the end", before)


def _fixes(findings: Sequence[Mapping[str, Any]]) -> list[str]:
    """The commands of the findings' hints, in their order."""
    return [command for found in findings for command in commands(found["hint"])]


def _watches(finding: Mapping[str, Any]) -> bool:
    return finding["check"] == "company" and finding["level"] != "ok"


_WAYS = (
    "guest to world", "world to published port", "guest to guest", "host to guest",
    "guest to gateway", "guest to DHCP server",
)  # fmt: skip


def _not_named(name: str, said: Said) -> str:
    """What no error says of a flow: its way and family (by the host's address is named as any way)."""
    way = next((way for way in _WAYS if name.startswith(way)), "")
    family = "IPv6" if "IPv6" in name else "IPv4"
    named = any(way in f["message"] and family in f["message"] for f in said.errors)
    damage = any(f["check"] in ("damage", "forwarding", "routes") for f in said.errors)
    return "" if named or damage or not way else f"{way}, {family}"


def _told(stopped: dict[str, str]) -> str:
    return "; ".join(f"{name} ({how})" for name, how in stopped.items())
