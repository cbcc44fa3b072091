"""Cut the power of a machine in which hvtx is at work, again and again, and compare.

    sudo python -m integration.lab.boot.powercut --cuts 20

After each boot on the same disk: the store opens and passes integrity_check, what was reported as
done still stands (one operation may have been under way, and is done or undone whole), every VM with
``--autostart`` runs and no other does, and nothing is in the host or in the store that is not theirs.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from typing import Any, NamedTuple

from integration.lab.boot import machine

BOOT_SECONDS, WORK_SECONDS = 400.0, 20.0
EARLY = 0.25  # share of cuts at any moment of the boot, recovery included
EARLY_SECONDS = 25.0


class Known(NamedTuple):
    """What the outside knows of a VM from reports of operations done."""

    exists: bool
    mac: tuple[str, ...] = ()
    ipv4: tuple[str, ...] = ()
    autostart: bool = False


class Ledger:
    """What was reported as done, line by line."""

    def __init__(self) -> None:
        self.vms: dict[str, Known] = {}
        self.under_way: tuple[str, str] | None = None  # verb, VM
        self.done = 0
        self.failed: list[str] = []

    def read(self, line: str) -> None:
        """Take a line of the machine's report."""
        kind, _, rest = line.partition(" ")
        if kind == "begin":
            _, verb, name = rest.split(" ")
            self.under_way = (verb, name)
        elif kind == "failed":
            self.failed.append(line)
            self.under_way = None
        elif kind == "done":
            _, verb, name, text = rest.split(" ", 3)
            self._done(verb, name, json.loads(text))
            self.under_way = None

    def _done(self, verb: str, name: str, seen: dict[str, Any]) -> None:
        self.done += 1
        before = self.vms.get(name, Known(exists=False))
        if verb == "rm":
            self.vms[name] = Known(exists=False)
            return
        mac, ipv4 = tuple(seen["mac"]), tuple(seen["ipv4"])
        autostart = seen["autostart"] if verb in ("create", "run") else before.autostart
        self.vms[name] = Known(True, mac, ipv4, autostart)


def faults(ledger: Ledger, check: dict[str, Any]) -> list[str]:
    """What is wrong with a host after its boot, in words; nothing if all is well (pure)."""
    if "error" in check:
        return [f"the host cannot be checked: {check['error']}"]
    found = [
        f"{what} is {check[what]!r}, not {wanted!r}"
        for what, wanted in (
            ("recover", "active"), ("integrity", "ok"), ("foreign_keys", 0), ("plan", [0, []]),
            ("intents", []), ("repaired", []), ("leases", check["interfaces"]),
        )
        if check[what] != wanted
    ]  # fmt: skip
    there = {vm["name"]: vm for vm in check["vms"]}
    unsure = ledger.under_way[1] if ledger.under_way else None
    for name in sorted({*there, *ledger.vms}):
        known = ledger.vms.get(name, Known(exists=False))
        vm = there.get(name)
        if name == unsure:
            found += _faults_of_unsure(ledger, known, vm)
        elif known.exists != (vm is not None):
            found.append(f"VM {name}: reported {known}, found {vm}")
        elif vm is not None:
            found += _faults_of(name, known, vm, autostart=known.autostart)
    devices = sorted(d for vm in check["vms"] if vm["state"] == "running" for d in vm["device"])
    if check["taps"] != devices:
        found.append(f"TAP devices {check['taps']}, not {devices}")
    addresses = [a for vm in check["vms"] for a in (*vm["ipv4"], *vm["mac"])]
    if len(set(addresses)) != len(addresses):
        found.append(f"an address was given twice: {addresses}")
    if len(check["vms"]) != check["interfaces"]:
        found.append(f"{check['interfaces']} interfaces of {len(check['vms'])} VMs")
    if len(check["bridges"]) != 1:
        found.append(f"bridges: {check['bridges']}")
    return found


def _faults_of(name: str, known: Known, vm: dict[str, Any], *, autostart: bool) -> list[str]:
    wanted = "running" if autostart else "defined"
    seen = (vm["state"], tuple(vm["mac"]), tuple(vm["ipv4"]))
    if seen != (wanted, known.mac, known.ipv4):
        return [f"VM {name}: reported {known}, so {wanted}; found {vm}"]
    return []


def _faults_of_unsure(ledger: Ledger, known: Known, vm: dict[str, Any] | None) -> list[str]:
    """The one operation that was under way is done or undone."""
    assert ledger.under_way is not None
    verb, name = ledger.under_way
    if vm is None:
        may = verb in ("create", "run", "rm") or not known.exists
        return [] if may else [f"VM {name} is gone, and only {verb} was under way"]
    if known.exists:
        return _faults_of(name, known, vm, autostart=known.autostart)
    may = verb in ("create", "run")
    return [] if may else [f"VM {name} is back, and only {verb} was under way"]


def settle(ledger: Ledger, check: dict[str, Any]) -> None:
    """From here on, what was unsure is as it was found."""
    if ledger.under_way is None:
        return
    name = ledger.under_way[1]
    vm = next((vm for vm in check["vms"] if vm["name"] == name), None)
    if vm is None:
        ledger.vms[name] = Known(exists=False)
    else:
        autostart = vm["state"] == "running"
        ledger.vms[name] = Known(True, tuple(vm["mac"]), tuple(vm["ipv4"]), autostart)
    ledger.under_way = None


class Result(NamedTuple):
    """What a run of cuts gave."""

    cuts: int
    boots: int
    early: int  # cuts before the machine had checked itself
    done: int
    under_way: int  # cuts that hit an operation
    faults: list[str]


def campaign(cuts: int, seed: int, tell: Any, *, early: float = EARLY) -> Result:
    """Cut ``cuts`` times, then boot once more; stops at the first fault.

    ``early`` is the share of cuts that may come at any moment of the boot.
    """
    chance = random.Random(seed)
    disk = machine.disk()
    try:
        host = machine.Machine(disk)
        ledger, boots, young, hit, read = Ledger(), 0, 0, 0, 0
        for cut in range(cuts + 1):
            last = cut == cuts
            with host.powered() as process:
                hurried = 0 < cut < cuts and chance.random() < early
                if hurried:
                    time.sleep(chance.uniform(1, EARLY_SECONDS))
                else:
                    at = host.wait_for(process, "check ", read, BOOT_SECONDS)
                    if not last and not host.lines()[at].startswith('check {"error"'):
                        host.wait_for(process, "done ", at, BOOT_SECONDS)
                        time.sleep(chance.uniform(0, WORK_SECONDS))
            lines, start = host.lines(), read
            read = len(lines)
            checked = False
            for line in lines[start:]:
                if line.startswith("check "):
                    checked, boots = True, boots + 1
                    check = json.loads(line.partition(" ")[2])
                    wrong = faults(ledger, check) if ledger.done or cut else []
                    if wrong:
                        return Result(cut, boots, young, ledger.done, hit, wrong)
                    tell(
                        f"boot {boots}: {len(check['vms'])} VMs, {ledger.done} operations done so far"
                    )
                    settle(ledger, check)
                ledger.read(line)
            if ledger.failed:
                return Result(cut, boots, young, ledger.done, hit, ledger.failed)
            young += not checked
            hit += checked and not last and ledger.under_way is not None
        return Result(cuts, boots, young, ledger.done, hit, [])
    finally:
        machine.remove(disk)


def main() -> int:
    """Run a campaign and print what it found."""
    parser = argparse.ArgumentParser(description="Power cuts of a machine with hvtx at work.")
    parser.add_argument("--cuts", type=int, default=20)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    sys.stdout.write(f"seed {options.seed}\n")

    def tell(words: str) -> None:
        sys.stdout.write(words + "\n")
        sys.stdout.flush()

    result = campaign(options.cuts, options.seed, tell)
    for fault in result.faults:
        tell(f"FAULT: {fault}")
    tell(
        f"{result.cuts} power cuts, {result.under_way} in the middle of an operation and"
        f" {result.early} during boot; {result.boots} boots checked, {result.done} operations were"
        f" reported as done, {len(result.faults)} faults"
    )
    return 1 if result.faults else 0


if __name__ == "__main__":
    sys.exit(main())
