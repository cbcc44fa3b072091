"""hvtx beside its peers and beside bare system calls, in one run: `tox -e bench`.

    python bench/beside.py [--quick] [--vms 0,100,500,1000,5000] [--peers 0,500] [--output DIR]

Needs root. Writes DIR/bench.json (all values), DIR/bench.md (tables) and plots as PNG and SVG. A
peer that is not installed is named as missing. Everything is in namespaces that go with the run:

- one VM more, in turns: hvtx on each backend, `ip` and `nft` in a script, `ip -batch` and `nft -f`,
  the CNI plugins bridge and portmap, netavark, smolvm from PyPI, libvirt's network;
- plans and whole commands of hvtx, with their processor time and peak of memory;
- many: made and collected a second, beside `ip -batch` and `nft -f`; boot with `--autostart`;
- packets of the last of so many VMs on each backend, beside a bridge with one rule of each kind.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import measure, report
from bench.figures import SCHEMA, Samples
from bench.harness import (
    TOP,
    Failed,
    Worker,
    commit_of,
    describe_machine,
    need_root,
    say,
    scratch,
    this_build,
    worker_of,
    workers,
)
from bench.measure import COMMANDS, PROCESSOR, Place, Run

NFTABLES, IPTABLES = "hvtx, nftables", "hvtx, iptables"
WHOLE_START, WHOLE_STOP = "start, whole processes", "stop, whole processes"
REMOVED = "removed a second"
SMOLVM = "smolvm==0.0.36"
SCRIPT, BATCH = "script: ip, nft", "ip -batch, nft -f"
_CNI = "/usr/lib/cni"
_NETAVARK = ("/usr/lib/podman/netavark", "/usr/libexec/podman/netavark")


class Peer(NamedTuple):
    """One of the others: its class in bench/inside/peers.py, its options, why it is missing."""

    name: str
    kind: str
    given: Mapping[str, str] = MappingProxyType({})
    missing: str = ""
    many: bool = False  # whether it makes thousands in a minute


def peers(directory: Path, *, smolvm: bool = True) -> list[Peer]:
    """All of them, with what the machine has."""
    found = [Peer(SCRIPT, "Script", many=True), Peer(BATCH, "Batch", many=True)]
    plugins = all(Path(_CNI, name).exists() for name in ("bridge", "host-local", "portmap"))
    found.append(
        Peer("CNI bridge, portmap", "Cni", {"cni": _CNI})
        if plugins
        else Peer("CNI bridge, portmap", "Cni", missing="no containernetworking-plugins here")
    )
    netavark = next((path for path in _NETAVARK if Path(path).exists()), None)
    found.append(
        Peer("netavark", "Netavark", {"netavark": netavark})
        if netavark
        else Peer("netavark", "Netavark", missing="no netavark here")
    )
    if smolvm:
        found.append(_smolvm(directory))
    programs = ("libvirtd", "virsh", "qemu-system-x86_64")
    lacking = [f"no {name} here" for name in programs if not shutil.which(name)]
    found.append(Peer("libvirt", "Libvirt", missing=", ".join(lacking)))
    return found


def _smolvm(directory: Path) -> Peer:
    """The pinned release in an environment of its own, which goes with the run."""
    say(f"installing {SMOLVM} into a temporary environment")
    python = directory / "smolvm/bin/python"
    subprocess.run([sys.executable, "-m", "venv", str(directory / "smolvm")], check=True)
    done = subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", SMOLVM],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        told = done.stderr.strip().splitlines()[-1:]
        return Peer("smolvm", "Smolvm", missing=f"pip install {SMOLVM}: {' '.join(told)}")
    program = str(TOP / "bench/inside/smolvm_network.py")
    return Peer("smolvm", "Smolvm", {"python": str(python), "program": program})


class Comparison:
    """hvtx and its peers in one run."""

    def __init__(self, directory: Path, wanted: argparse.Namespace) -> None:
        """``wanted``: the options."""
        self.directory, self.wanted = directory, wanted
        self.run = Run()
        self.build = this_build()
        self.commit = commit_of()  # now: the checkout may go on while this runs
        self.peers = peers(directory, smolvm=wanted.smolvm)
        if not wanted.smolvm:
            self.run.missing["smolvm"] = "not asked for"
        self.run.missing |= {peer.name: peer.missing for peer in self.peers if peer.missing}
        self._number = 0

    def _place(self, who: str, vms: int) -> Place:
        return Place(self.run.samples, who, vms)

    def _where(self) -> Path:
        self._number += 1
        return self.directory / f"world{self._number}"

    def worlds(self) -> None:
        """One VM more in turns, then packets, then the end of all."""
        with workers() as every:
            ours = self._ours(every)
            theirs = self._theirs(every)
            say(f"one VM in turns, {len(ours) + len(theirs)} worlds")
            self.run.rounds([*ours, *theirs], self.wanted.rounds, self._round, self.wanted.seconds)
            self._packets(every, ours)
            say("collecting all, removing all")
            for worker, place in ours:
                if place.who == NFTABLES and place.vms >= 100:
                    with self.run.going_on():
                        measure.collected(worker, place)
            for worker, place in theirs:
                if place.who == BATCH and place.vms >= 100:
                    with self.run.going_on():
                        seconds = worker.ask("remove_all")["seconds"]
                        place.add(REMOVED, place.vms / seconds, "VMs/s")

    def _ours(self, every: list[Worker]) -> list[tuple[Worker, Place]]:
        found = []
        wanted = [(NFTABLES, "nftables", vms) for vms in self.wanted.vms]
        wanted += [(IPTABLES, "iptables", vms) for vms in self.wanted.on_iptables]
        for who, firewall, vms in wanted:
            say(f"{who}: {vms} VMs")
            with self.run.going_on():
                worker = worker_of(self.build, self._where(), vms, firewall)
                every.append(worker)
                measure.fill([(worker, self._place(who, vms))], vms)
                found.append((worker, self._place(who, vms)))
        return found

    def _theirs(self, every: list[Worker]) -> list[tuple[Worker, Place]]:
        found = []
        for peer in self.peers:
            numbers = self.wanted.vms if peer.many else self.wanted.peers
            if peer.kind == "Libvirt":
                numbers = self.wanted.peers[:1]
            for vms in [] if peer.missing else numbers:
                say(f"{peer.name}: {vms} VMs")
                with self.run.going_on():
                    given = {**peer.given, "directory": str(self._where())}
                    worker = Worker(peer.name, vms, sys.executable, f"peers:{peer.kind}", given)
                    every.append(worker)
                    if vms and peer.kind != "Script":
                        taken = sum(worker.ask("grow", number=vms)["seconds"])
                        self._place(peer.name, vms).add(measure.MADE, vms / taken, "VMs/s")
                    elif vms:
                        worker.ask("grow", number=vms)  # as `ip -batch` does
                    found.append((worker, self._place(peer.name, vms)))
        return found

    def _round(self, one: tuple[Worker, Place], to: Samples) -> None:
        worker, place = one[0], one[1]._replace(samples=to)
        if place.who in (NFTABLES, IPTABLES):
            on_iptables = place.who == IPTABLES
            measure.one_world(worker, place, floor=not on_iptables, more=not on_iptables)
            for figure, name in ((WHOLE_START, "hvtx vm start"), (WHOLE_STOP, "hvtx vm stop")):
                for suffix in ("", PROCESSOR):
                    place.add(figure + suffix, to.of(name + suffix, place.who, place.vms)[-1])
            return
        found = worker.ask("one_vm")
        for figure, key in ((WHOLE_START, "start"), (WHOLE_STOP, "stop")):
            for suffix in ("", PROCESSOR):
                if key + suffix in found:
                    place.add(figure + suffix, found[key + suffix] * 1000)

    def _packets(self, every: list[Worker], ours: Sequence[tuple[Worker, Place]]) -> None:
        """The last guest of each world; ``plain`` is the same without hvtx."""
        if shutil.which("iperf3") is None:
            self.run.missing["packets"] = "no iperf3 here"
            return
        say("packets of the last VM of each world")
        scenes: list[tuple[Worker, Place]] = []
        with self.run.going_on():
            plain = Worker("plain", 0, sys.executable, "traffic:Plain", {})
            every.append(plain)
            scenes.append((plain, self._place("plain", 0)))
        fewest, most = self.wanted.vms[0], self.wanted.vms[-2:]
        for worker, place in ours:
            if place.who == NFTABLES and place.vms not in (fewest, *most):
                continue
            with self.run.going_on():
                worker.ask("guest")
                scenes.append((worker, place))
        seconds = self.wanted.packet_seconds

        def flows(one: tuple[Worker, Place], to: Samples) -> None:
            measure.flows(one[0], one[1]._replace(samples=to), seconds)

        self.run.rounds(scenes, self.wanted.packet_rounds, flows, 180)

    def many(self) -> None:
        """Made, collected and booted in worlds of their own."""
        count = self.wanted.many
        for number in range(self.wanted.runs):
            say(f"{count} VMs made, collected, booted: {number + 1} of {self.wanted.runs}")
            with self.run.going_on(), workers() as every:
                worker = worker_of(self.build, self._where(), count)
                every.append(worker)
                place = self._place(NFTABLES, count)
                measure.fill([(worker, place)], count)
                measure.several(worker, place, self.wanted.several)
                measure.collected(worker, place)
            with self.run.going_on(), workers() as every:
                worker = worker_of(self.build, self._where(), count)
                every.append(worker)
                measure.booted(worker, self._place(NFTABLES, count))

    def document(self, machine: dict[str, Any], seconds: float) -> dict[str, Any]:
        """All of it as JSON."""
        lacks = {peer.name: _lacks(peer.kind) for peer in self.peers if not peer.missing}
        return {
            "schema": SCHEMA,
            "kind": "beside",
            "machine": {**machine, "load_after": describe_machine("/")["load"]},
            "commit": self.commit,
            "seconds": round(seconds),
            "commands": list(COMMANDS),
            "missing": self.run.missing,
            "lacks": lacks,
            "problems": self.run.problems,
            "samples": self.run.samples.document(),
        }


def _lacks(kind: str) -> str:
    from bench.inside import peers as classes

    found: str = getattr(classes, kind).lacks
    return found


def chosen() -> argparse.Namespace:
    """The options, with what --quick makes of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a look, of a minute or two")
    parser.add_argument("--vms", default="0,100,500,1000,5000", help="[0,100,500,1000,5000]")
    parser.add_argument("--peers", default="0,500", help="numbers for slow peers [0,500]")
    parser.add_argument("--no-smolvm", dest="smolvm", action="store_false", help="no PyPI")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=240, help="begin no round after [240]")
    parser.add_argument("--runs", type=int, default=3, help="of what happens once [3]")
    parser.add_argument("--many", type=int, default=1000, help="made, collected, booted [1000]")
    parser.add_argument("--output", default=str(TOP / ".cache/bench"), help="[.cache/bench]")
    parser.add_argument("--directory", default="/var/tmp", help="on a real disk [/var/tmp]")
    wanted = parser.parse_args()
    wanted.on_iptables, wanted.packet_rounds, wanted.packet_seconds = (0, 500), 3, 1
    wanted.several = 10 if wanted.quick else 50
    if wanted.quick:
        wanted.vms, wanted.peers, wanted.on_iptables, wanted.many = "0,100", "0", (0, 20), 100
        wanted.rounds, wanted.runs, wanted.packet_rounds, wanted.packet_seconds = 3, 1, 1, 1
    wanted.vms = sorted({int(text) for text in wanted.vms.split(",")})
    wanted.peers = sorted({int(text) for text in wanted.peers.split(",")})
    return wanted


def main() -> None:
    """Measure, write, tell."""
    wanted = chosen()
    need_root()
    begun = time.monotonic()
    with scratch(wanted.directory) as directory:
        machine = describe_machine(directory)
        comparison = Comparison(directory, wanted)
        for part in (comparison.worlds, comparison.many):
            try:
                part()
            except Failed as problem:
                comparison.run.problems.append(str(problem))
        found = comparison.document(machine, time.monotonic() - begun)
    output = Path(wanted.output)
    output.mkdir(parents=True, exist_ok=True)
    (output / "bench.json").write_text(json.dumps(found, indent=1) + "\n")
    text = report.beside_text(found)
    (output / "bench.md").write_text(text)
    for path in report.draw(found, output):
        say(f"written: {path}")
    print(text)


if __name__ == "__main__":
    main()
