"""The fake world: the real program in this process, on a kernel of Python objects."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hvtx.engine import gc_plan
from hvtx.engine.registry import DRIVERS
from hvtx.host import failpoint as failpoints
from hvtx.host.nfanswers import Element
from hvtx.rulesets.nftables_elements import pieces
from tests.fake.host import FakeLinks, FakeNftables
from tests.fake.install import installed
from tests.fake.kernel import Kernel, Killed
from tests.fake.ruleset import FakeTable
from tests.machine.attachment_verbs import command_line
from tests.machine.world import KILLED, Ran, World

_HOLDER = ("sh", "-c", "exec hold", "sh")


class FakeWorld(World):
    """The kernel, and the others who use it."""

    can_recycle = True
    drivers = frozenset(DRIVERS) - {
        "iptables",
        "dnsmasq",
        "firewalld",
    }  # no legacy tables, no programs

    def __init__(self, place: Path, seed: int = 0) -> None:
        super().__init__(place)
        self.kernel = Kernel(seed)
        self.saved: dict[tuple[str, str], FakeTable] = {}
        self._holds: dict[str, int] = {}
        self._stack = contextlib.ExitStack()
        self._stack.enter_context(environment(place))
        self._stack.enter_context(installed(self.kernel))

    def close(self) -> None:
        self.closing.close()
        self._stack.close()

    def container(self) -> str:
        path = "/run/netns/contract"
        if path not in self.kernel.namespaces:
            self.kernel.begin_namespace(path)
        return path

    def links(self) -> FakeLinks:
        return FakeLinks(self.kernel)

    def nftables(self) -> FakeNftables:
        return FakeNftables(self.kernel)

    def processes(self) -> dict[int, int]:
        return {p.pid: p.start for p in self.kernel.processes.values() if not p.gate}

    def namespace_ids(self) -> frozenset[int]:
        return frozenset(self.kernel.ids())

    def holder(self, tap: str) -> tuple[str, ...]:
        return (*_HOLDER, tap)

    def run(self, argv: Sequence[str], failpoint: str, meanwhile: Callable[[], object]) -> Ran:
        out, err = io.StringIO(), io.StringIO()
        before = (
            failpoints._WANTED,
            failpoints._LOG,
            dict(failpoints._passed),
            self.kernel.meanwhile,
        )
        self.kernel.meanwhile = self._elsewhere(meanwhile)
        failpoints.arm(failpoint)
        code = KILLED
        try:
            with (
                self.kernel.run() as alive,
                contextlib.redirect_stdout(out),
                contextlib.redirect_stderr(err),
            ):
                try:
                    code = command_line(list(argv))
                except Killed:
                    pass
                except BaseException:
                    code = 70
                    traceback.print_exc()
                if alive.killed:
                    code = KILLED
                held = [d for d in self.kernel.descriptors.values() if d.run == alive.number]
                if held and not alive.killed:
                    code, err = 71, io.StringIO(f"descriptors were left open: {held}")
        finally:
            failpoints.arm(*before[:2])
            failpoints._passed.update(before[2])
            self.kernel.meanwhile = before[3]
        return Ran(code, out.getvalue(), err.getvalue())

    def plan_row_by_row(self) -> Ran:
        """Others' rules, which a plan of everything lists, are not in the fake kernel."""
        look = gc_plan.take_snapshot
        gc_plan.take_snapshot = lambda runtime, **_: look(runtime)  # type: ignore[assignment]
        try:
            return self.hvtx("gc", "--plan", "--json", told=False)
        finally:
            gc_plan.take_snapshot = look

    def _elsewhere(self, meanwhile: Callable[[], object]) -> Callable[[], object]:
        """What others do is not done by the run that is stopped, nor printed there."""

        def act() -> None:
            runs, self.kernel.runs = self.kernel.runs, []
            try:
                with (
                    contextlib.redirect_stdout(io.StringIO()),
                    contextlib.redirect_stderr(io.StringIO()),
                ):
                    meanwhile()
            finally:
                self.kernel.runs = runs

        return act

    # -- others -----------------------------------------------------------------------------------

    def do(self, what: str, /, words: dict[str, str]) -> Any:
        try:
            return getattr(self, f"_{what}")(**words)
        except OSError as problem:
            return problem

    def _index(self, device: str) -> int:
        link = self.kernel.by_name(device)
        if link is None:
            raise OSError(19, "no such device")
        return link.ifindex

    def _rename(self, device: str, name: str) -> None:
        self.kernel.change(self._index(device), name=name, up=True)

    def _delete(self, device: str) -> None:
        self.kernel.delete(self._index(device))

    def _alias(self, device: str, mark: str) -> None:
        self.kernel.change(self._index(device), alias=mark or None)

    def _down(self, device: str) -> None:
        self.kernel.change(self._index(device), up=False)

    def _unplug(self, device: str) -> None:
        self.kernel.change(self._index(device), master=0)

    def _tap(self, name: str) -> None:
        self.kernel.add(name, "tun", tun_flags=0x1002, persistent=True)

    def _plug(self, name: str, device: str) -> None:
        self.kernel.change(self._index(name), master=self._index(device))

    def _vlan(self, device: str, name: str) -> None:
        self.kernel.add(name, "vlan", lower=self._index(device))

    def _address(self, device: str, address: str) -> None:
        self.kernel.add_address(self._index(device), address)

    def _no_address(self, device: str, address: str) -> None:
        self.kernel.remove_address(self._index(device), address)

    def _flush(self) -> None:
        self.kernel.ruleset.flush()

    def _save(self) -> None:
        self.saved = self.kernel.ruleset.save()

    def _restore(self) -> None:
        self.kernel.ruleset.flush()
        self.kernel.ruleset.restore(self.saved)

    def _load(self) -> None:
        self.kernel.ruleset.restore(self.saved)

    def _own_rules(self, subnet: str) -> None:
        self._strange(f"ip saddr {subnet} masquerade", None)

    def _copied_mark(self, subnet: str, mark: str) -> None:
        self._strange(f"ip saddr {subnet} masquerade", mark)

    def _strange(self, words: str, comment: str | None) -> None:
        table = self.kernel.ruleset.tables.setdefault(("ip", "strange"), FakeTable(None, ["nat"]))
        assert table
        self.kernel.ruleset.add_rule("ip", "strange", "nat", words, comment)
        self.kernel.ruleset.generation += 1

    def _table(self, table: str) -> FakeTable:
        found = self.kernel.ruleset.tables.get(("inet", table))
        if found is None:
            raise OSError(2, "no such table")
        self.kernel.ruleset.generation += 1
        return found

    def _rule_in_ours(self, table: str) -> None:
        self._table(table)
        self.kernel.ruleset.add_rule("inet", table, "forward", "ip saddr 192.0.2.1 drop", None)

    def _key(self, address: str) -> bytes:
        spec = {"what": "masquerade", "address": address}
        return pieces("", spec)[0].key

    def _element_in_ours(self, table: str, address: str) -> None:
        key = self._key(address)
        self._table(table).sets["masq4"].setdefault(key, Element(key, b"", None))

    def _drop_table(self, table: str) -> None:
        self._table(table)
        del self.kernel.ruleset.tables["inet", table]

    def _drop_element(self, table: str, address: str) -> None:
        self._table(table).sets["masq4"].pop(self._key(address), None)

    def _strip_element(self, table: str, address: str) -> None:
        key = self._key(address)
        elements = self._table(table).sets["masq4"]
        if elements.pop(key, None) is not None:
            elements[key] = Element(key, b"", None)

    def _kill(self, pid: str) -> None:
        self.kernel.end(int(pid))

    def _hold(self, device: str) -> None:
        if self.kernel.by_name(device) is None or device in self._holds:
            return
        number = self.kernel.open_tun(owner=1)
        try:
            self.kernel.attach(number, device, 0x1002)
        except OSError:
            self.kernel.close(number)
            return
        self._holds[device] = number

    def _let_go(self, device: str) -> None:
        number = self._holds.pop(device, None)
        if number in self.kernel.descriptors:
            self.kernel.close(number)

    def _bind(self, port: str) -> None:
        if not self.kernel.is_bound(("tcp", int(port))):
            self.kernel.sockets.add(("tcp", int(port)))

    def _unbind(self, port: str) -> None:
        self.kernel.sockets.discard(("tcp", int(port)))

    def _guest(self) -> int:
        return self.kernel.spawn(("sleep", "86400")).pid

    def _recycle(self, pid: str) -> None:
        self.kernel.spawn(("stranger",), pid=int(pid))

    def _contain(self, name: str, nsid: str) -> str:
        self.kernel.begin_namespace(f"/run/netns/{name}", int(nsid) if nsid else None)
        return f"/run/netns/{name}"

    def _uncontain(self, name: str) -> None:
        self.kernel.end_namespace(f"/run/netns/{name}")

    # -- lives -----------------------------------------------------------------------------------------

    def _reboot(self) -> None:
        self.kernel.boot()
        self._holds.clear()
        shutil.rmtree(self.runs, ignore_errors=True)


@contextlib.contextmanager
def environment(place: Path) -> Iterator[None]:
    (place / "config.toml").write_text("")
    wanted = {
        "HVTX_STATE_DIR": str(place / "state"),
        "HVTX_RUN_DIR": str(place / "run"),
        "HVTX_CONFIG": str(place / "config.toml"),
        "HVTX_FIREWALL": "nftables",
        "HVTX_DHCP": "off",  # the fake runs no program
        "HVTX_LOCK_TIMEOUT": "0",
        "HVTX_VERIFY": "1",
    }
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def run(world: FakeWorld, *argv: str, failpoint: str = "", code: int = 0) -> Ran:
    """A command of hvtx that ends as it should."""
    ran = world.run(argv, failpoint, lambda: None)
    assert ran.code == code, ran
    return ran
