"""What holding a VM's published port costs: by Perl, and by Python where there is no Perl.

    python bench/port_holder.py [--rounds 15] [--holders 50] [--directory DIR]

Needs root. `hvtx vm start` as a whole process, of a VM that hvtx starts (``command``) and of one
that it does not (``external``), with each program in turns: by the clock, and of processor time.
Then the memory of many holders at once, by smaps_rollup: what several share is divided among them.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.figures import Samples, number, ratio_text, ratios, spread, table
from bench.harness import compile_bytecode, enter_namespace, scratch, this_build
from hvtx.drivers import portholder
from hvtx.host import pids, port_programs
from hvtx.model.vm import Publish

PROGRAMS = {"perl": port_programs.PERL, "python": "/usr/bin/no-perl"}
_KINDS = {"external": ("--hypervisor", "external"), "command": ("--", "sleep", "600")}
_RUN = (
    "import sys; from hvtx.host import port_programs; port_programs.PERL = sys.argv.pop(1);"
    " from hvtx.__main__ import main; main()"
)


def call(environment: dict[str, str], program: str, *words: str) -> tuple[float, float]:
    """A whole command: milliseconds by the clock, and of its own processor time."""
    line = [sys.executable, "-c", _RUN, PROGRAMS[program], *words]
    quiet = [(os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0)]
    began = time.perf_counter()
    pid = os.posix_spawn(line[0], line, environment, file_actions=quiet)
    _, status, used = os.wait4(pid, 0)
    took = time.perf_counter() - began
    if status:
        raise SystemExit(f"hvtx {' '.join(words)}: {os.waitstatus_to_exitcode(status)}")
    return took * 1000, (used.ru_utime + used.ru_stime) * 1000


def holder() -> int:
    """The pid of who holds ports here, once it has its name."""
    while True:
        for pid in pids.numbers():
            if _holds(pid):
                return pid
        time.sleep(0.001)


def _holds(pid: int) -> bool:
    try:
        here = os.readlink("/proc/self/ns/net") == os.readlink(f"/proc/{pid}/ns/net")
        return here and pids.called(pid) == port_programs.SIGNATURE
    except OSError:
        return False


def spent(pid: int) -> float:
    """Milliseconds of a processor that a process has used."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e6


def starts(directory: Path, rounds: int) -> Samples:
    """Samples of whole starts; the first round, which warms caches, is not kept."""
    found = Samples()
    own = {"HVTX_STATE_DIR": "state", "HVTX_RUN_DIR": "run", "XTABLES_LOCKFILE": "lock"}
    environment = {**os.environ, **{name: str(directory / at) for name, at in own.items()}}
    call(environment, "perl", "network", "create", "n0", "--subnet", "10.100.0.0/22")
    for kind, how in _KINDS.items():
        publish = ("--network", "n0", "--publish", "10080:80")
        call(environment, "perl", "vm", "create", kind, *publish, *how)
        for turn in range(rounds + 1):
            for program in sorted(PROGRAMS, reverse=bool(turn % 2)):
                took, used = call(environment, program, "vm", "start", kind)
                holding = spent(holder())
                call(environment, program, "vm", "stop", kind, "--force")
                if turn:
                    found.add(f"vm start, {kind}", program, 0, took)
                    found.add(f"{kind}: processor with the holder's", program, 0, used + holding)
                    found.add(f"{kind}: of this the holder's", program, 0, holding)
        call(environment, "perl", "vm", "rm", kind)
    call(environment, "perl", "network", "rm", "n0")  # and with it the process that serves DHCP
    return found


def memory(holders: int, found: Samples) -> None:
    """Samples of the memory of one of as many holders."""
    for program, path in PROGRAMS.items():
        port_programs.PERL = path
        ports = [Publish("tcp", None, 20000 + n, 80) for n in range(holders)]
        begun = [portholder.spawn(portholder.hold([port]), None, ["vm"]) for port in ports]
        try:
            for one in begun:
                one.open()
                while not _holds(one.identity.pid):
                    time.sleep(0.001)
            for one in begun:
                said = Path(f"/proc/{one.identity.pid}/smaps_rollup").read_text()
                for name, words in (("Pss", "its share of memory"), ("Private_Dirty", "its own")):
                    size = int(said.partition(f"\n{name}:")[2].split()[0])
                    found.add(words, program, holders, size / 1024, "MiB")
        finally:
            for one in begun:
                portholder.end(one.identity)


def main() -> None:
    """Parse, enter a namespace, measure, tell."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--rounds", type=int, default=15)
    asked.add_argument("--holders", type=int, default=50)
    asked.add_argument("--directory", default="/var/tmp")
    wanted = asked.parse_args()
    enter_namespace()
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    compile_bytecode(this_build())
    with scratch(wanted.directory) as directory:
        found = starts(directory, wanted.rounds)
    memory(wanted.holders, found)
    lines = []
    for figure in found.figures():
        vms = found.vms(figure)[0]
        both = [found.of(figure, program, vms) for program in PROGRAMS]
        cells = [number(spread(values).median) for values in both]
        lines.append((f"{figure}, {found.units[figure]}", *cells, ratio_text(ratios(*both))))
    print(f"load {os.getloadavg()[0]:.1f}; medians, and ratios of pairs with their quartiles")
    print(table(("figure", *PROGRAMS, "perl / python"), lines))


if __name__ == "__main__":
    main()
