"""Every fix that is printed is run on the host that it is printed for; then doctor is content."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hvtx.engine import forward
from hvtx.engine.fix_finder import FixFinder
from hvtx.engine.runtime import Runtime, Settings
from integration import lab
from integration.lab.program import Program
from integration.lab.rulesets import CASES, Case
from integration.lab.vms import two_guests
from integration.network.test_doctor_forward import bridge_of, set_up, take_down

# Where a rule knows only one of the two devices, or only the wire: the place to look at is named.
LOOKED_AT = {
    "legacy raw": "see ip6tables-legacy -t raw -S PREROUTING",
    "prerouting": "see nft -a list chain inet wall early",
    "postrouting": "see nft -a list chain inet wall late",
    "ingress of the uplink": "see nft -a list chain netdev wall in",
    "the bridge family": "see nft -a list chain bridge wall pass",  # of IPv6 it drops discovery too
}
# A real firewalld hears them: `tox -e neighbours`.
ELSEWHERE = {"a panic of firewalld": "firewall-cmd --panic-off"}
ODD = [
    Case("a chain in capitals, and one in the middle of others", "nft add table inet Wall\n"
         "nft add chain inet Wall DENY\nnft add rule inet Wall DENY ip daddr 192.0.2.1 drop\n"
         "nft add rule inet Wall DENY drop\nnft add chain inet Wall Pass "
         "{ type filter hook forward priority 0; }\nnft add rule inet Wall Pass jump DENY", "DENY"),
    Case("nft's own table of a name of iptables'", "nft add table ip filter\n"
         "nft add chain ip filter forward { type filter hook forward priority 0; policy drop; }",
         "policy drop"),
    Case("a table of iptables that nft wrote in", "iptables-nft -P FORWARD DROP\n"
         "nft add rule ip filter FORWARD ct mark 7 accept", "policy drop"),
    Case("Docker's policy", "iptables-nft -N DOCKER-USER\niptables-nft -A DOCKER-USER -j RETURN\n"
         "iptables-nft -A FORWARD -j DOCKER-USER\niptables-nft -P FORWARD DROP", "policy drop"),
    Case("everything is closed", "nft add table inet wall\n" + "".join(
        f"nft add chain inet wall {hook} {{ type filter hook {hook} priority 0; policy drop; }}\n"
        for hook in ("input", "forward", "output")), "policy drop"),
]  # fmt: skip


@pytest.fixture
def hvtx(world: lab.Namespace) -> Iterator[Program]:
    """A network of both families, and two guests."""
    with two_guests() as program:
        yield program


def hints() -> dict[str, str]:
    """What doctor says of the flows of guests: what stops them, and its fix."""
    settings = Settings(os.environ["HVTX_STATE_DIR"], os.environ["HVTX_RUN_DIR"], vm_user="root")
    runtime = Runtime(settings, writable=False)
    try:
        found = forward.findings(forward.judge(runtime), real=True, fix=FixFinder(runtime).of)
        return {f.evidence[0]: f.hint or "" for f in found if f.level != "ok"}
    finally:
        runtime.close()


def follow(hint: str) -> None:
    """Type it at a shell."""
    hvtx = f'hvtx() {{ {shlex.quote(sys.executable)} -m hvtx "$@"; }}\n'
    lab.run("sh", "-e", "-c", hvtx + hint)


def remainder() -> dict[str, str]:
    """What is still stopped when every fix was followed: a rule may stand behind another."""
    left = hints()
    for _ in range(4):
        commands = [hint for hint in left.values() if not hint.startswith("see ")]
        if not commands:
            break
        for hint in dict.fromkeys(commands):
            follow(hint)
        left = hints()
    return left


@pytest.mark.parametrize("part", [0, 1, 2])
def test_what_doctor_says_lets_guests_pass(hvtx: Program, part: int) -> None:
    """In each of the rule sets; where nothing narrow can be said, it says where to look."""
    wrong, bridge = [], bridge_of(hvtx)
    for case in [*(case for case in CASES if case.by), *ODD][part::3]:
        set_up(case, bridge)
        if case.name in ELSEWHERE:
            assert set(hints().values()) == {ELSEWHERE[case.name]}
            take_down()
            continue
        left = remainder()
        look = LOOKED_AT.get(case.name)
        if any(look is None or not hint.startswith(look) for hint in left.values()):
            wrong.append(f"{case.name}: {left}")
        take_down()
        if "inet Wall" in lab.run("nft", "list", "tables"):
            lab.run("nft", "delete", "table", "inet", "Wall")
    assert not wrong, "\n".join(wrong)


SETTINGS = ("net/ipv4/ip_forward", "net/ipv4/conf/{}/forwarding", "net/ipv4/conf/uplink/forwarding")


def of_checks(hvtx: Program, *checks: str) -> set[str]:
    """The hints of doctor's findings in some checks."""
    found = hvtx("doctor", "--json", code=None).json()["findings"]
    return {f["hint"] for f in found if f["check"] in checks and f["level"] != "ok"}


@pytest.mark.parametrize("way", [0, -1], ids=["hvtx", "sysctl"])
def test_a_setting_by_the_command_that_is_printed(hvtx: Program, way: int) -> None:
    """Both of what is offered do it, each alone."""
    for setting in SETTINGS:
        path = Path("/proc/sys", setting.format(bridge_of(hvtx)))
        path.write_text("0")
        hints = of_checks(hvtx, "forwarding", "forward")
        assert hints, setting
        for hint in hints:
            follow(hint.split(", or: ")[way])
        assert of_checks(hvtx, "forwarding", "forward") == set(), setting


def test_advertisements_by_the_command_that_is_printed(hvtx: Program) -> None:
    """A device that waits for a router, beside forwarding that somebody turned on."""
    lab.run("ip", "-6", "route", "del", "default")
    Path("/proc/sys/net/ipv6/conf/all/forwarding").write_text("1")
    Path("/proc/sys/net/ipv6/conf/uplink/accept_ra").write_text("1")
    hints = of_checks(hvtx, "forwarding")
    assert hints
    for hint in hints:
        follow(hint)
    assert of_checks(hvtx, "forwarding") == set()


def test_a_mode_by_the_command_that_is_printed(hvtx: Program) -> None:
    """A store that others could read."""
    for path in (os.environ["HVTX_STATE_DIR"], f"{os.environ['HVTX_STATE_DIR']}/hvtx.db"):
        os.chmod(path, 0o755)
        hints = [h for h in of_checks(hvtx, "store") if path in h]
        assert hints, path
        follow(hints[0])
        assert [h for h in of_checks(hvtx, "store") if h.endswith(f" {path}")] == []
