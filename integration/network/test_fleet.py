"""docs/fleet.md: routes between two hosts by BIRD as the page has it; FRR and containerd read theirs.

The daemons come from Debian's packages, taken apart in .cache/packages: nothing is installed.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hvtx import ShownRoute
from hvtx.cli.routes_text import lines_of
from integration import lab
from integration.lab import packages
from integration.lab.firewall_contract import reach
from integration.lab.program import Program
from integration.lab.traffic import Place
from integration.lab.waiting import until
from tests.fleet_page import PAGE, text

TOP = Path(__file__).resolve().parents[2]
GUEST = str(TOP / "integration/lab/guest.py")
WHERE = f"/usr/lib/{os.uname().machine}-linux-gnu"


def root_of(names: tuple[str, ...]) -> Path:
    """The root of some packages; skips the test where they cannot be had."""
    try:
        return packages.taken_apart(names)
    except packages.Unavailable as problem:
        pytest.skip(str(problem))


@pytest.fixture(scope="module")
def bird() -> Path:
    """BIRD 2."""
    return root_of(packages.BIRD)


@pytest.fixture(scope="module")
def vtysh() -> Path:
    """FRR's shell."""
    return root_of(packages.VTYSH)


@pytest.fixture(scope="module")
def containerd() -> Path:
    """containerd, 1.6 or 2."""
    return root_of(packages.CONTAINERD)


def libraries(root: Path) -> dict[str, str]:
    """The environment in which programs of a root find its libraries."""
    return {**os.environ, "LD_LIBRARY_PATH": f"{root}{WHERE}:{root}{WHERE}/frr"}


class There:
    """hvtx on the other host."""

    def __init__(self, host: lab.Namespace, place: Path) -> None:
        self.host = host
        self.settings = [f"HVTX_STATE_DIR={place}/state", f"HVTX_RUN_DIR={place}/run"]

    def __call__(self, *words: str) -> str:
        """Run it; what it prints."""
        return self.host.run("env", *self.settings, sys.executable, "-m", "hvtx", *words)


@pytest.fixture
def bird_at(bird: Path, tmp_path: Path) -> Iterator[object]:
    """Starts BIRD with a configuration, here or in a namespace."""
    running: list[subprocess.Popen[bytes]] = []

    def start(name: str, configuration: str, enter: list[str]) -> None:
        file = tmp_path / f"{name}.conf"
        file.write_text(
            "log stderr all;\ndebug protocols { states, routes, events };\n" + configuration
        )
        sockets = ["-s", str(tmp_path / f"{name}.ctl"), "-P", str(tmp_path / f"{name}.pid")]
        argv = [*enter, str(bird / "usr/sbin/bird"), "-f", "-c", str(file), *sockets]
        with (tmp_path / f"{name}.log").open("wb") as log:
            running.append(subprocess.Popen(argv, env=libraries(bird), stdout=log, stderr=log))

    yield start
    for process in running:
        process.terminate()
        process.wait(20)


def until_shown(
    look: str, shown: str, *, there: bool = True, run: Callable[..., str] = lab.run
) -> None:
    """Wait until a command shows something, or does no more."""
    what = f"{look}: {'' if there else 'no '}{shown}"
    until(what, lambda: (shown in run(*look.split(), check=False)) is there, 30)


def test_guests_of_two_hosts_reach_each_other(
    world: lab.Namespace, bird_at: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each host announces its own networks; one that goes is withdrawn, and no route of it stays."""
    monkeypatch.setenv("HVTX_VM_USER", "root")  # /dev/net/tun is not everybody's everywhere
    other = There(world, tmp_path / "south")
    here = Program()
    before, there_before = lab.run("ip", "route"), world.run("ip", "route")
    configuration = text("/etc/bird/bird.conf")
    mirrored = (
        configuration.replace(lab.HOST4, "HERE").replace(lab.WORLD4, lab.HOST4)
        .replace("HERE", lab.WORLD4)
    )  # fmt: skip
    bird_at("north", configuration, [])  # type: ignore[operator]
    bird_at("south", mirrored, world.argv())  # type: ignore[operator]
    here("network", "create", "lab", "--subnet", "10.81.1.0/24", "--no-nat")
    other("network", "create", "lab", "--subnet", "10.81.2.0/24", "--no-nat")
    guest = ("--", sys.executable, GUEST)
    web = here("vm", "run", "web", "--network", "lab", "--json", *guest).json()["pid"]
    db = json.loads(other("vm", "run", "db", "--network", "lab", "--json", *guest))["pid"]
    until_shown("ip route", f"10.81.2.0/24 via {lab.WORLD4} dev uplink proto bird")
    until_shown("ip route", f"10.81.1.0/24 via {lab.HOST4} dev eth0 proto bird", run=world.run)
    for near, far, to, seen in (
        (web, db, "10.81.2.2", "10.81.1.2"),
        (db, web, "10.81.1.2", "10.81.2.2"),
    ):
        assert reach(Place(near), Place(far), "tcp", to, 7, 7) == seen
        assert reach(Place(near), Place(far), "udp", to, 7, 7) == seen
    other("vm", "rm", "db", "--force")
    other("network", "rm", "lab")
    until_shown("ip route", "10.81.2.0/24", there=False)
    here("vm", "rm", "web", "--force")
    here("network", "rm", "lab")
    until_shown("ip route", "10.81.1.0/24", there=False, run=world.run)
    assert (lab.run("ip", "route"), world.run("ip", "route")) == (before, there_before)


def test_bird_takes_routes_to_blocks(world: lab.Namespace, bird_at: object, tmp_path: Path) -> None:
    """What the page adds for `network routes --format bird` brings them into the kernel."""
    page, file = text("/etc/bird/bird.conf"), tmp_path / "hvtx.conf"
    said = " ".join(PAGE.split())
    include = re.search(r"ends with `(include \"([^\"]+)\";)`", said)
    export = re.search(r"`protocol kernel` has `(export where [^`]+;)`", said)
    assert include and export and f"> {include[2]} && birdc configure" in said
    assert page.count("export where source = RTS_BGP;") == 1
    routes = [
        ShownRoute("lab", cidr, "other", "south", via, local=False)
        for cidr, via in (("10.81.7.0/28", lab.WORLD4), ("fd81::/64", lab.WORLD6))
    ]
    file.write_text("\n".join(lines_of(routes, "bird")) + "\n")
    configuration = page.replace("export where source = RTS_BGP;", export[1])
    bird_at("blocks", configuration + include[1].replace(include[2], str(file)) + "\n", [])  # type: ignore[operator]
    until_shown("ip route", f"10.81.7.0/28 via {lab.WORLD4} dev uplink proto bird")
    file.write_text("\n".join(lines_of(routes[1:], "bird")) + "\n")  # the block went back
    os.kill(int((tmp_path / "blocks.pid").read_text()), signal.SIGHUP)  # as `birdc configure`
    until_shown("ip route", "10.81.7.0/28", there=False)


def test_bird_reads_its_configuration(bird: Path, tmp_path: Path) -> None:
    """The page's configuration parses, and a broken one does not."""
    program, environment = str(bird / "usr/sbin/bird"), libraries(bird)
    file = tmp_path / "bird.conf"
    for words, good in (("", True), ("protocol directt {}\n", False)):
        file.write_text(text("/etc/bird/bird.conf") + words)
        argv = [program, "-p", "-c", str(file)]
        done = subprocess.run(argv, env=environment, capture_output=True, check=False)
        assert (done.returncode == 0) is good, done


def test_frr_reads_its_configuration(vtysh: Path, tmp_path: Path) -> None:
    """vtysh takes every line, and refuses one that is none."""
    file = tmp_path / "frr.conf"
    for words, code in (("", 0), ("ipp route 10.81.2.0/24 203.0.113.2\n", 2)):
        file.write_text(text("/etc/frr/frr.conf") + words)
        argv = [str(vtysh / "usr/bin/vtysh"), "-C", "-f", str(file), "--vty_socket", str(tmp_path)]
        done = subprocess.run(argv, env=libraries(vtysh), capture_output=True, check=False)
        assert done.returncode == code, done


def test_containerd_reads_its_configuration(containerd: Path, tmp_path: Path) -> None:
    """What it would run with has the page's words."""
    file = tmp_path / "config.toml"
    file.write_text(text("/etc/containerd/config.toml"))
    told = lab.run(str(containerd / "usr/bin/containerd"), "-c", str(file), "config", "dump")
    told = told.replace("'", '"')  # containerd 2, which has translated the file to its own version
    assert 'conf_template = "/etc/cni/hvtx.template"' in told
    assert 'runtime_type = "io.containerd.kata.v2"' in told
