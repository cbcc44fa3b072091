"""Rules that somebody saved and restored, with the marks of their time: once, twice, over all, beside.

Everybody's tools do that: ``iptables-restore`` with and without ``-n``, ``nft -f`` with and without
``flush ruleset``. What is ours and too much goes, for the reason that the interface names; what was
edited stays; the VM that runs keeps all of its own.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from integration import lab
from integration.commands.test_gc_foreign import in_another_boot
from integration.crash.test_failpoints import SLEEP, end_everything, host
from integration.lab.program import Forked, Program, preload

ALL = os.environ.get("HVTX_COMPANY") == "all"
TABLES = ("nat", "filter")
GONE = "10.77.0.2"  # the address of the VM that is removed; the other has the next


class Tool(NamedTuple):
    """A backend's way to save, and to restore."""

    firewall: str
    save: Callable[[], str]
    restore: Callable[[str], None]
    flushes: bool


def save_legacy() -> str:
    return "".join(lab.run("iptables-legacy-save", "-t", table) for table in TABLES)


def save_native() -> str:
    return lab.run("nft", "list", "ruleset")


TOOLS = {
    "iptables-restore": Tool(
        "iptables", save_legacy, lambda text: _fed(text, "iptables-legacy-restore"), True
    ),
    "iptables-restore -n": Tool(
        "iptables", save_legacy, lambda text: _fed(text, "iptables-legacy-restore", "-n"), False
    ),
    "nft -f": Tool("nftables", save_native, lambda text: _fed(text, "nft", "-f", "-"), False),
    "flush and nft -f": Tool(
        "nftables", save_native, lambda t: _fed(f"flush ruleset\n{t}", "nft", "-f", "-"), True
    ),
}


def _fed(text: str, *argv: str) -> None:
    lab.run(*argv, stdin=text)


@pytest.fixture(params=TOOLS.values(), ids=TOOLS)
def tool(request: pytest.FixtureRequest) -> Tool:
    found: Tool = request.param
    return found


class Scene(NamedTuple):
    """A program, what was saved while two VMs ran, and the host since one of them is gone."""

    hvtx: Program
    saved: str
    clean: dict[str, object]
    live: dict[str, object]


@pytest.fixture
def scene(tool: Tool) -> Iterator[Scene]:
    preload()
    hvtx = Forked(HVTX_FIREWALL=tool.firewall)
    hvtx("network", "create", "net", "--subnet", "10.77.0.0/24")
    for name, port in (("gone", "8080:80"), ("live", "8081:80")):
        hvtx("vm", "run", name, "--network", "net", "-p", port, *SLEEP)
    saved = tool.save()
    hvtx("vm", "rm", "gone", "--force")
    yield Scene(hvtx, saved, host(), hvtx.vm("live"))
    end_everything(hvtx)


def collected(scene: Scene) -> None:
    """gc ends, the live VM is as it was, and a second plan is empty."""
    scene.hvtx("gc", "--apply")
    assert scene.hvtx.is_clean(), scene.hvtx.plan()
    assert scene.hvtx.vm("live") == scene.live
    assert ("skip", "lost") not in scene.hvtx.plan()


@pytest.mark.parametrize("times", [1, 2])
def test_what_was_saved_before_a_removal(scene: Scene, tool: Tool, times: int) -> None:
    """released-leftover, and where it came beside what is there, duplicate-copy."""
    for _ in range(times):
        tool.restore(scene.saved)
    assert GONE in tool.save()
    plan = scene.hvtx.plan()
    assert {i["vm"] for i in plan["delete", "released-leftover"]} <= {None, "gone"}
    assert (("delete", "duplicate-copy") in plan) is not tool.flushes
    assert {action for action, _ in plan} <= {"delete", "skip"}
    scene.hvtx("vm", "show", "live")
    collected(scene)
    assert lab.difference(scene.clean, host()) == ""


def test_what_was_edited_before_it_was_restored(scene: Scene, tool: Tool) -> None:
    """edited-copy: it carries our mark and is not what we made, so it is not ours to remove."""
    if tool.firewall == "iptables":
        edited = re.sub(r"(?m)^(.*--dport )8081( .*)$", r"\g<0>\n\g<1>9999\2", scene.saved)
    else:
        edited = re.sub(
            r"(tcp \. )8081( comment \S+ : \S+ \. 80)", r"\g<0>, \g<1>9999\2", scene.saved
        )
    assert edited != scene.saved
    tool.restore(edited)
    found = scene.hvtx.plan()["skip", "edited-copy"]
    assert {item["vm"] for item in found} == {"live"}
    collected(scene)
    assert "9999" in tool.save()
    assert GONE not in tool.save()
    scene.hvtx("vm", "stop", "live")  # nor when its VM goes
    assert "9999" in tool.save()
    scene.hvtx("vm", "start", "live")  # whom it does not hinder
    assert ("skip", "edited-copy") in scene.hvtx.plan()
    scene.hvtx("vm", "stop", "live")
    lines = [line for line in tool.save().splitlines() if "9999" in line]
    _take_away(tool, lines)
    scene.hvtx("gc", "--apply")
    assert scene.hvtx.is_clean()


def _take_away(tool: Tool, lines: list[str]) -> None:
    if tool.firewall == "iptables":
        for line in lines:
            words = line.replace('"', "").split()
            lab.run("iptables-legacy", "-w", "-t", "nat", "-D", *words[1:])
        return
    (table,) = re.findall(r"table inet (hvtx-\S+)", tool.save())
    lab.run("nft", "delete", "element", "inet", table, "dnat4_any", "{ tcp . 9999 }")


@pytest.mark.parametrize("times", [1, 2] if ALL else [2])
def test_what_was_saved_in_an_earlier_life(tool: Tool, times: int) -> None:
    """stale-restored: saved, the host booted, restored beside what was rebuilt."""
    hvtx = Program(HVTX_FIREWALL=tool.firewall)
    hvtx("network", "create", "net", "--subnet", "10.77.0.0/24")
    for name, port in (("gone", "8080:80"), ("live", "8081:80")):
        hvtx("vm", "run", name, "--network", "net", "-p", port, *SLEEP)
    saved = tool.save()
    for name in ("gone", "live"):
        lab.end(hvtx.vm(name)["pid"])
        lab.run("ip", "link", "del", hvtx.device(name))
    lab.run("ip", "link", "del", hvtx("network", "show", "net", "--json").json()["bridge"])
    lab.run("nft", "flush", "ruleset")
    if tool.firewall == "iptables":
        for table in TABLES:
            lab.run("iptables-legacy", "-t", table, "-F")
            lab.run("iptables-legacy", "-t", table, "-X")
    shutil.rmtree(os.environ["HVTX_RUN_DIR"])

    def booted(*argv: str, codes: tuple[int, ...] = (0,)) -> str:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("HVTX_FIREWALL", tool.firewall)
            done = in_another_boot(sys.executable, "-m", "hvtx", *argv)
        assert done.returncode in codes, f"{argv}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    booted("recover")
    booted("vm", "start", "live")
    clean, live = host(), booted("vm", "show", "live", "--json")
    for _ in range(times):
        tool.restore(saved)
    shown = booted("gc", "--plan")
    assert "stale-restored" in shown
    booted("gc", "--apply")
    assert booted("vm", "show", "live", "--json") == live
    if not tool.flushes:  # else the live VM is served by what came into the place of its own
        booted("gc", "--plan", "--detailed-exitcode")
        assert lab.difference(clean, host()) == "", shown
    # what stands in the place of the VM's own, or the network's, can go only after them
    ends = (("vm", "rm", "live", "--force"), ("vm", "rm", "gone"), ("gc", "--apply"),
            ("network", "rm", "net"), ("gc", "--apply"))  # fmt: skip
    for _ in range(3):
        for argv in ends:
            booted(*argv, codes=(0, 3, 4, 9))
        if "hvtx" not in (tool.save() + save_native()).lower():
            break
    booted("gc", "--apply")  # the last round may have left records of what is gone
    assert '"vms": []' in booted("vm", "ls", "--json")
    booted("gc", "--plan", "--detailed-exitcode")
    assert "hvtx" not in (tool.save() + save_native()).lower()
