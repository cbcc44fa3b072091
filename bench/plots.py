"""The plots of a run, each as PNG and SVG. Needs matplotlib (the extra `bench`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")  # no display is asked for

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from bench import goals
from bench import measure as m
from bench.figures import MORE_IS_BETTER, Samples, ratios, read
from bench.inside.traffic import FLOWS

_COLOURS = ("#1b6ca8", "#d1682c", "#3f8f4f", "#8a4f9e", "#b03a48", "#6d6d6d", "#2a9d9d", "#a08a2c")
_STYLE = {
    "figure.figsize": (8, 4.5), "figure.dpi": 110, "font.size": 9, "axes.grid": True,
    "axes.spines.top": False, "axes.spines.right": False, "grid.alpha": 0.3,
    "grid.linewidth": 0.6, "svg.hashsalt": "hvtx", "svg.fonttype": "none", "legend.frameon": False,
}  # fmt: skip
_START, _STOP = "start, whole processes", "stop, whole processes"


def draw(found: dict[str, Any], directory: Path) -> list[Path]:
    """Write those that the run has values for; their paths."""
    samples = read(found["samples"])
    every: dict[str, Callable[[Axes, Samples], bool]]
    if found["kind"] == "against":
        before, after = found["before"], found["after"]
        every = {"against": lambda axes, s: _against(axes, s, before, after)}
    else:
        every = {
            "one-vm": _one_vm, "peers": _peers, "commands": _commands, "memory": _memory,
            "many": _many, "packets": _packets,
        }  # fmt: skip
    written = []
    with plt.rc_context(_STYLE):  # type: ignore[arg-type]
        for name, drawing in every.items():
            figure, axes = plt.subplots(layout="constrained")
            if drawing(axes, samples):
                for kind in ("png", "svg"):
                    path = directory / f"{name}.{kind}"
                    metadata = {"Date": None} if kind == "svg" else {"Software": None}
                    figure.savefig(path, metadata=metadata)
                    written.append(path)
            plt.close(figure)
    return written


def _line(axes: Axes, samples: Samples, figure: str, who: str, **style: Any) -> bool:
    """A line by numbers of VMs with its quartiles; False if there are no values."""
    found = [(vms, samples.spread(figure, who, vms)) for vms in samples.vms(figure)]
    points = [(vms, one) for vms, one in found if one is not None]
    if not points:
        return False
    numbers = [vms for vms, _ in points]
    middle = [one.median for _, one in points]
    (drawn,) = axes.plot(numbers, middle, marker="o", markersize=4, **style)
    lows, highs = [one.low for _, one in points], [one.high for _, one in points]
    axes.fill_between(numbers, lows, highs, alpha=0.15, color=drawn.get_color(), linewidth=0)
    return True


def _by_vms(axes: Axes, title: str, unit: str) -> None:
    axes.set_xscale("symlog", linthresh=100, linscale=0.5)
    axes.set_yscale("log")
    numbers = sorted({int(x) for line in axes.get_lines() for x in line.get_xdata()})
    axes.set_xticks(numbers, [f"{vms:,}" for vms in numbers])
    axes.minorticks_off()
    axes.set_xlabel("VMs that run beside it")
    axes.set_ylabel(unit)
    axes.set_title(title, loc="left")
    axes.legend(fontsize=8)


def _one_vm(axes: Axes, samples: Samples) -> bool:
    floor = m.floor_of(goals.OURS)
    drawn = False
    for colour, (figure, label) in zip(
        _COLOURS, ((m.START, "start"), (m.STOP, "stop"), (m.PLAN, "gc --plan")), strict=False
    ):
        drawn |= _line(axes, samples, figure, goals.OURS, color=colour, label=label)
        _line(
            axes, samples, figure, floor, color=colour, linestyle=":", alpha=0.7,
            label=f"{label}: bare system calls",
        )  # fmt: skip
    if drawn:
        _by_vms(axes, "One VM's network in process, and its plan (quartiles shaded)", "ms")
    return drawn


def _commands(axes: Axes, samples: Samples) -> bool:
    names = ("hvtx gc --plan --json", "hvtx explain", "hvtx vm ls", "hvtx vm stop", "hvtx vm start")
    drawn = False
    for colour, name in zip(_COLOURS, names, strict=False):
        drawn |= _line(axes, samples, name, goals.OURS, color=colour, label=name)
    beside = m.floor_of(goals.OURS)
    for name in (m.STATE, "python -c 'import click'"):
        _line(axes, samples, name, beside, color=_COLOURS[5], linestyle=":", label=name)
    if drawn:
        _by_vms(axes, "Whole commands", "ms")
    return drawn


def _memory(axes: Axes, samples: Samples) -> bool:
    names = ("hvtx gc --plan --json", "hvtx explain", "hvtx vm ls", "hvtx vm stop", "hvtx vm start")
    drawn = False
    for colour, name in zip(_COLOURS, names, strict=False):
        drawn |= _line(axes, samples, name + m.PEAK, goals.OURS, color=colour, label=name)
    if drawn:
        _by_vms(axes, "Peak of memory of whole commands", "MiB")
    return drawn


def _peers(axes: Axes, samples: Samples) -> bool:
    """Start and stop of everybody, stacked, by the numbers of VMs that slow peers have too."""
    rows = []
    for who in samples.whos(_START):
        for vms in samples.vms(_START):
            start, stop = (samples.spread(figure, who, vms) for figure in (_START, _STOP))
            if start is not None:
                rows.append((f"{who}, {vms:,} VMs", start.median, stop.median if stop else 0.0))
    rows.reverse()
    if not rows:
        return False
    axes.figure.set_size_inches(8, 1.2 + 0.24 * len(rows))  # type: ignore[union-attr]
    labels, starts, stops = zip(*rows, strict=True)
    axes.barh(labels, starts, color=_COLOURS[0], label="start")
    axes.barh(labels, stops, left=starts, color=_COLOURS[1], label="stop")
    axes.set_xlabel("ms, whole processes; libvirt: an interface attached, its daemon runs already")
    axes.set_title("Network of one VM, beside peers", loc="left")
    axes.legend(fontsize=8)
    return True


def _many(axes: Axes, samples: Samples) -> bool:
    drawn = False
    number = 0
    for figure in (m.MADE, m.COLLECTED, "removed a second", m.BOOTED):
        for who in samples.whos(figure):
            style = {"color": _COLOURS[number % len(_COLOURS)], "label": f"{figure}: {who}"}
            drawn |= _line(axes, samples, figure, who, **style)
            number += 1
    if drawn:
        _by_vms(axes, "Many VMs", "VMs a second")
        axes.set_xlabel("VMs in all")
    return drawn


def _packets(axes: Axes, samples: Samples) -> bool:
    """Ratios to plain, a group of bars for each flow."""
    flows = [flow for flow in FLOWS if flow in samples.units]
    worlds = [
        (who, vms) for who in (samples.whos(flows[0]) if flows else []) for vms in
        samples.vms(flows[0]) if who != "plain" and samples.of(flows[0], who, vms)
    ]  # fmt: skip
    if not worlds:
        return False
    width = 0.8 / len(worlds)
    for number, (who, vms) in enumerate(worlds):
        found = [ratios(samples.of(f, who, vms), samples.of(f, "plain", 0)) for f in flows]
        axes.bar(
            [place + number * width for place in range(len(flows))],
            [one.median if one else 0.0 for one in found], width,
            color=_COLOURS[number % len(_COLOURS)], label=f"{who}, {vms:,} VMs",
        )  # fmt: skip
    axes.axhline(1.0, color="black", linewidth=0.8)
    middle = [place + 0.4 - width / 2 for place in range(len(flows))]
    axes.set_xticks(middle, [flow.replace(", ", "\n") for flow in flows])
    axes.set_ylabel("of a bridge with one rule of each kind")
    axes.set_title("Packets of the last of so many VMs", loc="left")
    axes.legend(fontsize=8)
    return True


def _against(axes: Axes, samples: Samples, before: str, after: str) -> bool:
    """The ratio of each row with its quartiles; left of 1 is less."""
    rows = []
    for asked in goals.ASKED:
        for vms in asked.vms or samples.vms(asked.figure):
            two = (samples.of(asked.figure, who, vms) for who in (after, before))
            ratio = ratios(*two)
            if ratio is not None:
                better = (ratio.median > 1) == (samples.units[asked.figure] in MORE_IS_BETTER)
                rows.append((f"{asked.figure}, {vms:,} VMs", ratio, better))
    rows.reverse()
    if not rows:
        return False
    axes.figure.set_size_inches(8, 1.2 + 0.19 * len(rows))  # type: ignore[union-attr]
    places: Sequence[int] = range(len(rows))
    for place, (_, ratio, better) in zip(places, rows, strict=True):
        colour = _COLOURS[2] if better else _COLOURS[4]
        axes.plot([ratio.low, ratio.high], [place, place], color=colour, linewidth=3, alpha=0.4)
        axes.plot([ratio.median], [place], "o", color=colour, markersize=4)
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_xscale("log")
    shown = [0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 10]
    low, high = axes.get_xlim()
    axes.set_xticks([x for x in shown if low <= x <= high], minor=False)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.minorticks_off()
    axes.set_yticks(places, [label for label, _, _ in rows], fontsize=7)
    axes.set_ylim(-1, len(rows))
    axes.set_xlabel(f"{after} / {before}: medians of pairs, quartiles; green is better")
    axes.set_title("Two commits in one run", loc="left")
    return True
