"""Tables and plots of a run, from its JSON; and the generated parts of docs/performance.md.

    python bench/report.py FILE.json [...]                  the tables, as Markdown
    python bench/report.py FILE.json [...] --plots DIR      its plots, PNG and SVG
    python bench/report.py FILE.json [...] --page           docs/performance.md and docs/plots

The page has a place for each kind of run (``beside``: bench/beside.py, ``against``:
bench/against.py), between two comments; what stands there is written again, nothing else is.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import measure as m
from bench.figures import Samples, Spread, markdown, number, ratio_text, ratios, read
from bench.goals import ASKED, OURS
from bench.inside.traffic import FLOWS

TOP = Path(__file__).resolve().parent.parent
PAGE, PLOTS = TOP / "docs/performance.md", TOP / "docs/plots"


# -- two commits -----------------------------------------------------------------------------------


# What a whole process is compared with, where it is not the figure's own name.
_FLOORS = {
    "hvtx vm start": "python -c 'import click'",
    "hvtx vm start" + m.PROCESSOR: "python -c 'import click'" + m.PROCESSOR,
    "hvtx gc --plan --json": m.STATE,
}


def floor_values(samples: Samples, figure: str, who: str, vms: int) -> list[float]:
    """The values of what a figure is a multiple of: of its own world, in the same rounds."""
    if figure.removesuffix(", iptables") in FLOWS:
        return samples.of(figure, "plain", vms)
    if figure.endswith(", iptables"):
        return samples.of(figure.replace(", iptables", m.BESIDE_IPTABLES), who, vms)
    return samples.of(_FLOORS.get(figure, figure), m.floor_of(who), vms)


def against_lines(samples: Samples, before: str, after: str) -> Iterator[list[str]]:
    """Lines of the table: a figure at a number of VMs."""
    for asked in ASKED:
        for vms in asked.vms or samples.vms(asked.figure):
            two = [samples.of(asked.figure, who, vms) for who in (before, after)]
            if not any(two):
                continue
            floors = [floor_values(samples, asked.figure, w, vms) for w in (before, after)]
            multiples = [
                ratios(mine, floor) if asked.floor else None
                for mine, floor in zip(two, floors, strict=True)
            ]
            yield [
                asked.figure, f"{vms:,}", samples.units[asked.figure],
                *(number(s and s.median) for s in _spreads(two)),
                ratio_text(ratios(two[1], two[0])),
                *(number(one and one.median) for one in multiples),
                str(min(len(one) for one in two)), asked.goal,
            ]  # fmt: skip


def _spreads(lists: Iterable[Sequence[float]]) -> list[Spread | None]:
    return [ratios(values, [1.0] * len(values)) for values in lists]


def against_text(found: dict[str, Any]) -> str:
    """The table of two commits."""
    samples = read(found["samples"])
    before, after = found["before"], found["after"]
    head = (
        "figure", "VMs", "unit", before, after, f"{after} / {before} (quartiles)",
        f"x floor, {before}", f"x floor, {after}", "runs", "to reach",
    )  # fmt: skip
    commits = found["commits"]
    lines = [
        (
            f"Commits {commits['before']} and {commits['after']}; {_machine(found['machine'])}; "
            f"{found['cycles']:,} cycles of the store. Medians; ratios are medians of pairs that"
            " were measured in turns, with their quartiles."
        ),
        "",
        markdown(head, against_lines(samples, before, after)),
    ]
    lines += ["", *(f"Left out: {problem}" for problem in found["problems"])]
    return "\n".join(lines).rstrip() + "\n"


def _machine(machine: dict[str, Any]) -> str:
    return (
        f"{machine['date']}, {machine['cpus']} processors, Linux {machine['kernel']}, Python "
        f"{machine['python']}, state on {machine['file_system']}, load {machine['load']} before"
        f" and {machine['load_after']} after"
    )


_RATES = (
    *(m.MADE, m.LATE, m.SEVERAL + "start", m.SEVERAL + "stop"),
    *(m.COLLECTED, "removed a second", m.BOOTED),
)


# -- hvtx beside its peers -------------------------------------------------------------------------


def _cells(samples: Samples, figure: str, who: str, columns: Sequence[int]) -> list[str]:
    found = [samples.spread(figure, who, vms) for vms in columns]
    return ["-" if s is None else f"{number(s.median)} ({number(s.least)})" for s in found]


def _by_vms(samples: Samples, title: str, rows: Sequence[tuple[str, str, str]]) -> str:
    """A table with a column for each number of VMs. ``rows``: label, figure, who."""
    every = samples.vms()
    columns = [vms for vms in every if any(samples.of(figure, who, vms) for _, figure, who in rows)]
    head = [title, *(f"{vms:,} VMs" for vms in columns)]
    lines = [[label, *_cells(samples, figure, who, columns)] for label, figure, who in rows]
    return markdown(head, [line for line in lines if set(line[1:]) != {"-"}])


def _peer_lines(samples: Samples, missing: dict[str, str]) -> Iterator[list[str]]:
    start, stop = "start, whole processes", "stop, whole processes"
    for who in [*samples.whos(start), *missing]:
        for vms in samples.vms(start) if who not in missing else ():
            one = [samples.of(figure, who, vms) for figure in (start, stop)]
            if not one[0]:
                continue
            medians = [number(s and s.median) for s in _spreads(one)]
            of_ours = [
                ratio_text(
                    ratios(_both(samples, who, vms, suffix), _both(samples, OURS, vms, suffix))
                )
                for suffix in ("", m.PROCESSOR)
            ]
            yield [who, f"{vms:,}", *medians, *of_ours]
        if who in missing:
            yield [who, "-", "-", "-", f"missing: {missing[who]}", "-"]


def _both(samples: Samples, who: str, vms: int, suffix: str) -> list[float]:
    """Start and stop together, of each round."""
    start, stop = "start, whole processes", "stop, whole processes"
    values = (samples.of(figure + suffix, who, vms) for figure in (start, stop))
    return [a + b for a, b in zip(*values, strict=False)]


def beside_text(found: dict[str, Any]) -> str:
    """All tables of a run beside peers."""
    samples = read(found["samples"])
    floor = m.floor_of(OURS)
    names = [name for name in found["commands"] if name in samples.units]
    whole = [(name, name, OURS if name.startswith("hvtx") else floor) for name in names]
    peaks = [(name, figure + m.PEAK, who) for name, figure, who in whole]
    parts_of_limit = [
        (figure.removeprefix(m.PART), figure, floor)
        for figure in samples.figures()
        if figure.startswith(m.PART)
    ]
    rates = [(f"{figure}: {who}", figure, who) for figure in _RATES for who in samples.whos(figure)]
    parts = [
        (
            f"Commit {found['commit']}; {_machine(found['machine'])}; the run took"
            f" {found['seconds'] // 60} minutes. Medians, in brackets the least."
        ),
        "### One VM, in process, ms",
        _in_process(samples),
        "### What the limit is made of, ms",
        _by_vms(samples, "bare system calls, each part", parts_of_limit),
        "### One VM, whole processes beside peers, ms",
        markdown(
            ("who", "VMs", "start", "stop", "both / hvtx on nftables", "its processor time"),
            _peer_lines(samples, found["missing"]),
        ),
        "\n".join(f"- {who}: {what}." for who, what in found["lacks"].items() if what),
        "### Whole commands, ms",
        _by_vms(samples, "command", whole),
        "### Peak of memory of whole commands, MiB",
        _by_vms(samples, "command", peaks),
        "### Many VMs, a second",
        _by_vms(samples, "what", rates),
        *_packets(samples),
        "\n".join(f"Left out: {problem}" for problem in found["problems"]),
    ]
    return "\n\n".join(part for part in parts if part).rstrip() + "\n"


def _in_process(samples: Samples) -> str:
    """Start, stop and plan beside the bare calls, and the multiples of these."""
    floor = m.floor_of(OURS)
    figures = [(m.START, "start"), (m.STOP, "stop"), (m.PLAN, "gc --plan")]
    rows = [
        row
        for figure, label in figures
        for row in ((label, figure, OURS), (f"bare system calls of a {label}", figure, floor))
    ]
    columns = [vms for vms in samples.vms(m.START) if samples.of(m.START, OURS, vms)]
    multiples = [
        [
            label,
            *(
                ratio_text(ratios(samples.of(figure, OURS, v), samples.of(figure, floor, v)))
                for v in columns
            ),
        ]
        for figure, label in figures
    ]
    head = ("multiples of the bare calls (quartiles)", *(f"{v:,} VMs" for v in columns))
    return _by_vms(samples, OURS, rows) + "\n\n" + markdown(head, multiples)


def _packets(samples: Samples) -> Iterator[str]:
    flows = [flow for flow in FLOWS if flow in samples.units]
    if flows:
        head = ("who", "VMs", *(f"{flow}, {samples.units[flow]}" for flow in flows))
        yield "### Packets of the last VM"
        yield markdown(head, _packet_lines(samples, flows))


def _packet_lines(samples: Samples, flows: Sequence[str]) -> Iterator[list[str]]:
    """Values of ``plain``, then ratios to it."""
    for who in samples.whos(flows[0]):
        for vms in samples.vms(flows[0]):
            if not samples.of(flows[0], who, vms):
                continue
            if who == "plain":
                middle = [samples.spread(flow, who, vms) for flow in flows]
                yield [who, "-", *(number(one and one.median) for one in middle)]
                continue
            of_plain = (
                ratios(samples.of(flow, who, vms), samples.of(flow, "plain", 0)) for flow in flows
            )
            yield [who, f"{vms:,}", *(f"x {ratio_text(one)}" for one in of_plain)]


# -- what is written -------------------------------------------------------------------------------


def draw(found: dict[str, Any], directory: Path) -> list[Path]:
    """The plots of a run as PNG and SVG; none, and said, without matplotlib."""
    try:
        from bench import plots
    except ModuleNotFoundError as problem:
        sys.stderr.write(f"no plots: {problem}; pip install -e '.[bench]' brings it\n")
        return []
    directory.mkdir(parents=True, exist_ok=True)
    return plots.draw(found, directory)


def place(page: str, kind: str, text: str) -> str:
    """The page with what stands between its two comments of a kind replaced. Raises ValueError."""
    begin, end = f"<!-- bench {kind}: generated -->", f"<!-- end of bench {kind} -->"
    before, found, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"the page has no place for {kind}: {begin} ... {end}")
    return f"{before}{begin}\n\n{text.strip()}\n\n{end}{after}"


def page_text(found: dict[str, Any], images: Sequence[Path]) -> str:
    """What stands in the page: tables and images."""
    text = against_text(found) if found["kind"] == "against" else beside_text(found)
    shown = [
        f"![Plot: {path.stem.replace('-', ' ')}](plots/{path.name})"
        for path in images
        if path.suffix == ".svg"
    ]
    return "\n\n".join([text.strip(), *shown])


def main() -> None:
    """Read, tell, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE.json")
    parser.add_argument("--plots", type=Path, metavar="DIR")
    parser.add_argument("--page", action="store_true", help="write docs/performance.md anew")
    wanted = parser.parse_args()
    for file in wanted.files:
        found = json.loads(file.read_text())
        images = draw(found, wanted.plots or PLOTS) if wanted.plots or wanted.page else []
        if wanted.page:
            page = place(PAGE.read_text(), found["kind"], page_text(found, images))
            PAGE.write_text(page)
        else:
            print(page_text(found, []))


if __name__ == "__main__":
    main()
