"""What would refuse every change is told before one is tried (CNI's STATUS)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from pkgutil import resolve_name

import pytest

from hvtx import Conflict, Host, HostRefused, NotPermitted, StoreError
from hvtx.commands import cni_status
from hvtx.engine.readiness import refuse_unwritable
from hvtx.engine.runtime import Settings
from hvtx.host import libnftables
from tests.machine.fake_world import FakeWorld


def settings(directory: Path) -> Settings:
    return Settings(state_directory=str(directory / "state"), run_directory=str(directory / "run"))


def test_where_nothing_is_yet_all_can_be_made(tmp_path: Path) -> None:
    refuse_unwritable(settings(tmp_path), exists=False)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_a_change_would_refuse(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o777)
    with pytest.raises(StoreError, match="not safe") as caught:
        refuse_unwritable(settings(tmp_path / "shared"), exists=False)
    assert "chmod go-w" in str(caught.value.hint)


def test_a_file_system_that_is_mounted_read_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = os.statvfs(tmp_path)
    values = [*tuple(seen)[:8], seen.f_flag | os.ST_RDONLY, seen.f_namemax]
    monkeypatch.setattr(os, "statvfs", lambda _path: os.statvfs_result(values))
    with pytest.raises(StoreError, match="mounted read-only"):
        refuse_unwritable(settings(tmp_path), exists=False)


def test_a_disk_that_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hvtx.store.reserve.may_begin", lambda _directory, *, exists: exists)
    refuse_unwritable(settings(tmp_path), exists=True)
    with pytest.raises(StoreError, match="too little room left") as caught:
        refuse_unwritable(settings(tmp_path), exists=False)
    assert caught.value.code == "store-full"


def test_a_disk_that_is_full_before_anything_of_ours_is_on_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    statvfs = os.statvfs

    def full(path: str) -> os.statvfs_result:
        values = [*tuple(statvfs(path)), 0]
        values[3] = values[4] = 1  # blocks that are free, for root and for others
        return os.statvfs_result(values[:10])

    monkeypatch.setattr(os, "statvfs", full)
    with pytest.raises(StoreError, match="too little room left"):
        refuse_unwritable(settings(tmp_path / "not" / "there"), exists=False)


# -- STATUS on a host that has nothing of hvtx's yet ------------------------------------------------


@pytest.fixture
def status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Asked by who has all powers, on a kernel that has nf_tables."""
    monkeypatch.setattr("hvtx.api.settings.DEFAULT_CONFIG", str(tmp_path / "none.toml"))
    monkeypatch.delenv("HVTX_CONFIG", raising=False)
    monkeypatch.setattr("hvtx.host.procfs.may_have_power_here", lambda: True)
    monkeypatch.setattr("hvtx.host.capabilities.has", lambda _capability: True)
    monkeypatch.setattr("hvtx.engine.privileges.tun_problem", lambda: None)
    monkeypatch.setattr(libnftables, "run", lambda _commands: "")
    host = Host(state_dir=tmp_path / "state", run_dir=tmp_path / "run", firewall="nftables")
    return host.attachments.status


@pytest.mark.parametrize("declared", [("default", ()), ("pods", ("fd77:8::/64",))])
def test_status_of_a_network_that_add_would_make(
    declared: tuple[str, tuple[str, ...]],
    status: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """It says so where ADD could not: who waits for readiness would start what fails."""
    status(*declared)
    missing = HostRefused("cannot load libnftables.so.1", hint="install it")

    def refuse(_commands: str) -> str:
        raise missing

    with monkeypatch.context() as patch, pytest.raises(HostRefused, match="cannot load"):
        patch.setattr(libnftables, "run", refuse)
        status(*declared)
    with monkeypatch.context() as patch, pytest.raises(NotPermitted, match="CAP_NET_ADMIN"):
        patch.setattr("hvtx.host.capabilities.has", lambda _capability: False)
        status(*declared)
    with monkeypatch.context() as patch, pytest.raises(StoreError, match="too little room"):
        patch.setattr("hvtx.store.reserve.may_begin", lambda _directory, *, exists: exists)
        status(*declared)
    assert list(tmp_path.iterdir()) == []


def test_status_tells_of_a_subnet_that_is_taken(
    status: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hvtx.engine.new_network.refuse_taken_subnet", _refuse)
    with pytest.raises(Conflict, match="overlaps"):
        status("pods", ("fd77:8::/64",))


def _refuse(subnets: object, *, block_size: int | None) -> None:
    raise Conflict(f"{subnets} overlaps what this host has a route to ({block_size})")


@pytest.mark.parametrize(
    ("before", "meanwhile", "step"),
    [
        (
            ("create", "other", "--subnet", "10.77.0.0/24"),
            ("create", "pods", "--subnet", "10.88.0.0/24"),
            "hvtx.engine.attachment_network.all_networks",
        ),
        (
            ("create", "pods", "--subnet", "10.88.0.0/24", "--egress", "none"),
            ("set", "pods", "--deny", "192.0.2.1"),
            "hvtx.commands.cni_status._refuse_damaged",
        ),
    ],
    ids=["made", "changed"],
)
def test_what_others_do_meanwhile_is_no_obstacle(
    before: tuple[str, ...],
    meanwhile: tuple[str, ...],
    step: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The record was read before, and the host is looked at after."""
    world, look, done = FakeWorld(tmp_path), resolve_name(step), []

    def late(*args: object) -> object:
        if not done:
            world._elsewhere(lambda: done.append(world.hvtx("network", *meanwhile)))()
        return look(*args)

    monkeypatch.setattr(step, late)
    monkeypatch.setattr("hvtx.commands.cni_status.Links", world.links)
    try:
        assert world.hvtx("network", *before).code == 0
        with world.kernel.run():
            Host().attachments.status("pods", ("10.88.0.0/24",))
        assert [ran.code for ran in done] == [0], done
    finally:
        world.close()


# -- STATUS of a network that is nearly full -------------------------------------------------------


@pytest.fixture
def small(tmp_path: Path) -> Iterator[FakeWorld]:
    """A world with the network `small`, which has room for five guests."""
    world = FakeWorld(tmp_path)
    with pytest.MonkeyPatch.context() as patch:  # undone before the world is
        patch.setattr(cni_status, "Links", world.links)
        ran = world.hvtx("network", "create", "small", "--subnet", "10.88.0.0/29")
        assert ran.code == 0, ran.err
        yield world
    world.close()


def _status_of(world: FakeWorld) -> None:
    with world.kernel.run():
        Host().attachments.status("small", ("10.88.0.0/29",))


def test_what_the_host_itself_has_is_no_room(small: FakeWorld) -> None:
    """ADD leases no address that a device of the host has (a VIP, say): STATUS counts them, too."""
    bridge = next(link for link in small.links().all() if link.kind == "bridge")
    for own in ("10.88.0.2/32", "10.88.0.3/29", "10.88.0.7/29", "10.99.0.1/24"):
        small.kernel.add_address(bridge.ifindex, own)
    for name in ("a", "b"):
        assert small.hvtx("vm", "create", name, "--network", "small", "--", "true").code == 0
    _status_of(small)
    assert small.hvtx("vm", "create", "c", "--network", "small", "--", "true").code == 0
    with pytest.raises(Conflict, match=r"no free address left .* 10\.88\.0\.2, 10\.88\.0\.3"):
        _status_of(small)
    ran = small.hvtx("vm", "create", "d", "--network", "small", "--", "true")
    assert (ran.code, "no free address left" in ran.err) == (Conflict.exit_code, True)
    small.kernel.remove_address(bridge.ifindex, "10.88.0.2/32")
    _status_of(small)


def test_a_bridge_without_a_port_left(small: FakeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a large subnet the bridge is full first."""
    bridge = next(link for link in small.links().all() if link.kind == "bridge")
    monkeypatch.setattr(cni_status, "_MANY", 0)
    monkeypatch.setattr(cni_status, "BRIDGE_PORTS", 2)
    for number in (1, 2):
        _status_of(small)
        small.kernel.add(f"port{number}", "dummy", master=bridge.ifindex)
    with pytest.raises(HostRefused, match="has no port left for a container"):
        _status_of(small)
