"""docs/library.md: each block of Python runs, in the order of the page, and the example does."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hvtx import Host

TOP = Path(__file__).parents[2]
PAGE = TOP / "docs/library.md"
EXAMPLE = TOP / "docs/examples/thousand_networks.py"


def blocks() -> list[tuple[int, str]]:
    """The page's blocks of Python, each with its line."""
    text = PAGE.read_text()
    found = re.finditer(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [(text[: one.start()].count("\n") + 1, one[1]) for one in found]


def test_the_page_runs_from_its_first_block_to_its_last(
    netns: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HVTX_FIREWALL", "nftables")
    scope: dict[str, Any] = {"__name__": "page"}
    found = blocks()
    assert len(found) >= 7
    try:
        for line, block in found:
            # as many lines in front as there are on the page: a traceback names its own
            exec(compile("\n" * line + block, str(PAGE), "exec"), scope)
    finally:
        with Host() as host:
            left = [vm.vm.name for vm in host.vm.ls()]
            for name in left:
                host.vm.rm(name, force=True)
            for network in host.network.ls():
                host.network.rm(network.name)
    assert left == ["web"], "the page tidies up after itself, but for its first VM"
    printed = capsys.readouterr()
    assert printed.out.startswith("running hv")
    assert "VM 'web' is running; " in printed.out
    assert "not-found 3\n" in printed.out
    assert printed.err == ""


def test_the_page_names_every_verb() -> None:
    text = PAGE.read_text()
    for group in ("vm", "network", "gc", "store", "systemd"):
        assert f"host.{group}." in text
    for verb in vars(Host):
        plain = verb.startswith("_") or verb in ("close", "reading", "things")
        assert plain or f"host.{verb}" in text, verb


def test_the_example_starts_and_stops_them_all(netns: None) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), "--vms", "24", "--threads", "4"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={name: value for name, value in os.environ.items() if not name.startswith("HVTX_")},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "networks started: 24 in" in done.stdout
    opened = re.search(r"open files: (\d+) before, (\d+) at the end", done.stdout)
    assert opened, done.stdout
    # the checksum program of the TAPs, which the kernel verified once, stays loaded
    assert int(opened[2]) - int(opened[1]) == 1
