"""hvtx as a CNI plugin beside the reference plugins, in one run and in turns.

    python bench/cni.py [--plugins DIR] [--attachments 0,100] [--rounds 15] [--json FILE]

Needs root. Each contestant is a network namespace with so many attachments that have one published
port each; in each round each answers VERSION, STATUS, makes one attachment more (ADD of the whole
chain) and ends it (DEL). The times are those of whole processes, as a runtime starts them, and the
chain's plugins one after another:

- ``reference``: bridge with host-local, and portmap (which calls iptables);
- ``reference, bandwidth``: the same and bandwidth;
- ``hvtx``, ``hvtx, bandwidth``: one plugin, asked for the same.

``DIR`` has the reference plugins: Debian's package containernetworking-plugins puts them into
/usr/lib/cni, and the tests of real clients have them in .cache/clients. They keep no durable
record: the synchronous writes of hvtx are in its figures alone. They do not answer STATUS.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.figures import Samples, number, ratio_text, ratios, table
from bench.harness import (
    TOP,
    Failed,
    Worker,
    describe_machine,
    export_checkout,
    in_turns,
    install,
    need_root,
    say,
    scratch,
    workers,
)

NEEDED = ("bridge", "host-local", "portmap", "bandwidth")
FIGURES = {"VERSION": "VERSION", "STATUS": "STATUS", "ADD": "start", "DEL": "stop"}
REFERENCE, HVTX, BANDWIDTH = "reference", "hvtx", ", bandwidth"


def found_plugins(named: str | None) -> Path:
    """The directory of the reference plugins. Raises SystemExit."""
    cached = sorted(TOP.glob(".cache/clients/root-*/usr/lib/cni"))
    for place in [Path(named)] if named else [Path("/usr/lib/cni"), *cached]:
        if all((place / name).exists() for name in NEEDED):
            return place
    raise SystemExit(
        "error: no reference plugins here\n"
        "hint: apt-get install containernetworking-plugins, or name their directory by --plugins"
    )


def chain(kind: str, directory: Path, plugins: Path) -> dict[str, Any]:
    """What the worker of a contestant is given (pure but for its directory)."""
    limited = kind.endswith(BANDWIDTH)
    if kind.startswith(REFERENCE):
        leases = {"type": "host-local", "dataDir": str(directory / "leases"),
                  "ranges": [[{"subnet": "10.96.0.0/16"}]]}  # fmt: skip
        listed = [
            {
                "type": "bridge",
                "bridge": "peers",
                "isGateway": True,
                "ipMasq": True,
                "ipam": leases,
            },
            {"type": "portmap", "capabilities": {"portMappings": True}},
        ]
        if limited:
            listed.append({"type": "bandwidth", "capabilities": {"bandwidth": True}})
        version, where = "1.0.0", {one["type"]: str(plugins) for one in listed}
    else:
        names = ("portMappings", "bandwidth") if limited else ("portMappings",)
        listed = [{
            "type": "hvtx", "subnets": ["10.96.0.0/16"], "stateDir": str(directory / "state"),
            "runDir": str(directory / "run"), "firewall": "nftables",
            "capabilities": dict.fromkeys(names, True),
        }]  # fmt: skip
        version, where = "1.1.0", {"hvtx": str(directory.parent / "installed")}
    return {
        "directory": str(directory),
        "conflist": {"name": "bench", "cniVersion": version, "plugins": listed},
        "plugins": where,
        "status": version == "1.1.0",
        "environment": {"HVTX_CONFIG": "/dev/null", "XTABLES_LOCKFILE": f"{directory}.lock"},
    }


def put_plugin(directory: Path) -> None:
    """The plugin of this checkout as runtimes have it: of a hvtx that is installed, not editable.

    Raises SystemExit.
    """
    build = install("hvtx", export_checkout(directory / "files"), directory)
    argv = [build.command, "cni", "install", "--dir", str(directory / "installed"),
            "--conf", str(directory / "unused.conflist"), "--json"]  # fmt: skip
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(done.stderr)


def _beside(samples: Samples, figure: str, limit: str, count: int) -> str:
    """The ratio of what was measured in the same rounds (pure)."""
    ours, theirs = (samples.of(figure, kind + limit, count) for kind in (HVTX, REFERENCE))
    return ratio_text(ratios(ours, theirs))


def tables(samples: Samples, kinds: list[str], counts: list[int]) -> str:
    """Medians, and the medians of the ratios of what was measured in the same round."""
    head = ["ms", *(f"{kind}, {n}" for kind in kinds for n in counts)]
    lines = []
    for figure in FIGURES:
        for suffix in ("", ", processor"):
            cells = [samples.spread(figure + suffix, kind, n) for kind in kinds for n in counts]
            lines.append([figure + suffix, *(number(c.median) if c else "-" for c in cells)])
    wanted = [(limit, n) for limit in ("", BANDWIDTH) if HVTX + limit in kinds for n in counts]
    pairs = [[figure, *(_beside(samples, figure, *one) for one in wanted)]
             for figure in ("VERSION", "ADD", "DEL")]  # fmt: skip
    beside = ["hvtx / reference", *(f"{HVTX}{limit}, {n}" for limit, n in wanted)]
    return f"{table(head, lines)}\n\n{table(beside, pairs)}"


def chosen() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plugins", help="where the reference plugins are")
    parser.add_argument("--attachments", default="0,100", help="how many are there [0,100]")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=240, help="begin no round after [240]")
    parser.add_argument(
        "--kinds", default=f"{REFERENCE};{HVTX};{REFERENCE}{BANDWIDTH};{HVTX}{BANDWIDTH}"
    )
    parser.add_argument("--json", help="a file for every value")
    parser.add_argument("--directory", default="/var/tmp", help="on a real disk [/var/tmp]")
    return parser.parse_args()


def main() -> None:
    """Measure and tell."""
    wanted = chosen()
    need_root()
    plugins, kinds = found_plugins(wanted.plugins), wanted.kinds.split(";")
    counts = [int(text) for text in wanted.attachments.split(",")]
    samples = Samples()
    with scratch(wanted.directory) as directory, workers() as every:
        machine = describe_machine(directory)
        if any(kind.startswith(HVTX) for kind in kinds):
            put_plugin(directory)
        made: list[tuple[Worker, str, int]] = []
        for kind in kinds:
            for count in counts:
                say(f"{kind}: {count} attachments")
                place = directory / f"world{len(made)}"
                given = chain(kind, place, plugins)
                worker = Worker(kind, count, sys.executable, "cni_chain:Chain", given)
                every.append(worker)
                begun = time.monotonic()
                worker.ask("grow", number=count)
                say(f"  made in {time.monotonic() - begun:.1f} s")
                made.append((worker, kind, count))

        def measure(one: tuple[Worker, str, int], turn: int) -> None:
            found = one[0].ask("one_vm")
            for figure, key in FIGURES.items():
                for suffix in ("", ", processor"):
                    if turn and key + suffix in found:
                        samples.add(figure + suffix, one[1], one[2], found[key + suffix] * 1000)

        say(f"in turns, {len(made)} worlds")
        kept = in_turns(made, wanted.rounds, measure, seconds=wanted.seconds)
    machine["load_after"] = describe_machine("/")["load"]
    if wanted.json:
        Path(wanted.json).write_text(
            json.dumps({"machine": machine, "rounds": kept, "samples": samples.document()}) + "\n"
        )
    print(f"{json.dumps(machine)}, {kept} rounds\n\n{tables(samples, kinds, counts)}")


if __name__ == "__main__":
    try:
        main()
    except Failed as problem:
        raise SystemExit(f"error: {problem}") from None
