"""Fixtures of the integration tests: each test lives in a network namespace of its own.

And in none but that: what of hvtx's appears in the namespace that the tests were started in fails
the test that it came with.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from integration import lab, shares
from integration.lab import memory, real_guest
from integration.lab.services import others_in, own_namespace
from integration.lab.unprivileged import own_tun, tun_is_open


def pytest_configure(config: pytest.Config) -> None:
    """In the process that starts the tests, and in each that runs them.

    VMs' own users open `/dev/net/tun`. Where no udev has opened it to all, the tests see one of
    their own that is; the machine's stays as it is. Temporary files are in memory, and go with the
    run, unless `--basetemp` says where they are to be.
    """
    lab.default_signals()
    if os.geteuid() == 0 and not tun_is_open():
        own_tun(0o666)
    starts = not hasattr(config, "workerinput")  # the others find it mounted
    if os.geteuid() == 0 and starts and config.option.basetemp is None:
        place = memory.mounted()
        if place is not None:
            config.add_cleanup(lambda: memory.unmounted(place))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Longest first, and what can be handed out singly last: no process is left with a rest."""
    place = {name: number for number, name in enumerate(shares.LONG)}
    items.sort(key=lambda item: shares.turn(item.path.stem, place))


@pytest.hookimpl(optionalhook=True)  # without pytest-xdist there is nothing to share out
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Who runs what, where several processes run tests (`-n`)."""
    return shares.scheduler(config, log)


def ours_outside() -> set[str]:
    """Devices of hvtx's in the namespace of this process, and whether it forwards."""
    found = {name for name in os.listdir("/sys/class/net") if name.startswith("hv")}
    if Path("/proc/sys/net/ipv4/ip_forward").read_text().strip() == "1":
        found.add("net.ipv4.ip_forward")
    return found


def tables_outside() -> set[str]:
    """Tables of hvtx's in the namespace of this process."""
    return {line for line in lab.run("nft", "list", "tables").splitlines() if "hvtx" in line}


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    """pytest's own, which goes with its test where it is in memory: of that there is only so much."""
    yield tmp_path
    if memory.holds(tmp_path):
        memory.emptied(tmp_path)


@pytest.fixture(autouse=True, scope="module")
def no_tables_outside() -> Iterator[None]:
    """No module leaves tables where it must not."""
    before = tables_outside() if os.geteuid() == 0 else set()
    yield
    if os.geteuid() == 0:
        assert tables_outside() - before == set(), "left in the machine's own namespace"


@pytest.fixture(autouse=True)
def nothing_outside() -> Iterator[None]:
    """No test changes the machine's own namespace."""
    before = ours_outside()
    yield
    assert ours_outside() - before == set(), "left in the machine's own namespace"


@pytest.fixture(autouse=True)
def netns(nothing_outside: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A fresh network namespace, state and run directories, and an xtables lock of its own."""
    if os.geteuid() != 0:
        pytest.skip("needs root: network namespaces")
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "xtables.lock"))
    monkeypatch.setenv("HVTX_VERIFY", "1")
    monkeypatch.setenv("HVTX_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("HVTX_RUN_DIR", str(tmp_path / "run"))
    # what is about it turns it on; HVTX_TEST_DHCP=auto turns it on for all
    monkeypatch.setenv("HVTX_DHCP", os.environ.get("HVTX_TEST_DHCP", "off"))
    (tmp_path / "config.toml").write_text("")
    monkeypatch.setenv("HVTX_CONFIG", str(tmp_path / "config.toml"))
    with lab.private_network():
        own = own_namespace()
        yield
        for pid in others_in(own):  # of networks and VMs that a test left; they keep the namespace
            with suppress(ProcessLookupError):  # one goes with another
                lab.end(pid)


@pytest.fixture
def world(netns: None) -> Iterator[lab.Namespace]:
    """The host's neighbour, reachable over a veth pair."""
    with lab.world() as other:
        yield other


@pytest.fixture(params=["nftables", "iptables"])
def firewall(request: pytest.FixtureRequest) -> str:
    """Each backend, as `--firewall` has it."""
    return str(request.param)


@pytest.fixture(params=[True, False], ids=["call-iptables", "no-call-iptables"])
def bridged(request: pytest.FixtureRequest) -> bool:
    """Whether frames within a bridge pass the rules of iptables, for `bridged_frames_see_iptables`."""
    return bool(request.param)


@pytest.fixture(scope="session")
def guest_files() -> Path:
    """`real_guest.GUEST`: the kernel and programs of a real guest, downloaded if they are not there.

    Of the session, so that it is asked for while there is a way to the packages: in no namespace.
    """
    if os.geteuid() != 0:
        pytest.skip("needs root: packages of a guest")
    done = subprocess.run([str(real_guest.PREPARE)], check=False)
    assert done.returncode == 0
    return real_guest.GUEST
