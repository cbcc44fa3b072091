"""A hypervisor that a start would not find is told in the start's own words."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hvtx.drivers.vm_process import probe
from hvtx.engine import accelerators
from hvtx.engine.checks import programs
from hvtx.errors import NotFound
from hvtx.host import kvm
from hvtx.hypervisors.base import binary_names
from hvtx.model.vm import Vm

HYPERVISORS = ("qemu", "firecracker", "cloud-hypervisor")


def of(hypervisor: str) -> Vm:
    return Vm("", "web", hypervisor, 256, 1, "/k", None, None, (), (), "/", False, ())


def there(path: Path) -> str:
    """An executable in a directory that everybody may write."""
    path.parent.mkdir()
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    path.parent.chmod(0o777)
    return str(path)


@pytest.mark.parametrize("hypervisor", HYPERVISORS)
def test_a_program_in_a_place_of_others_is_there(
    hypervisor: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = os.uname().machine
    path = there(tmp_path / "bin" / binary_names(hypervisor, machine)[0])
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    runtime: Any = SimpleNamespace(read=lambda _: [of(hypervisor)])
    told = {f.message: f for f in programs.check_hypervisors(runtime)}
    (found,) = [f for words, f in told.items() if "web" in words]
    assert found.level == "error"
    assert "is in a place where others could replace it" in found.message
    assert path in (found.hint or "")
    assert "give it to root" in (found.hint or "")
    with pytest.raises(NotFound) as start:
        probe._binary(of(hypervisor), machine)
    assert start.value.hint == found.hint
    if hypervisor == "qemu":
        monkeypatch.setattr(kvm, "unseen", lambda user: None)
        monkeypatch.setattr(kvm, "device_problem", lambda user: None)
        assert accelerators.judge(str(tmp_path)).hint == found.hint


def test_a_command_can_be_named_by_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there(tmp_path / "bin" / "prog")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(NotFound) as start:
        probe._binary(of("command")._replace(command=("prog",)), "x86_64")
    assert (start.value.hint or "").endswith("give it to root, or name it by its path")


@pytest.mark.parametrize("hypervisor", HYPERVISORS)
def test_a_program_that_is_nowhere(
    hypervisor: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    runtime: Any = SimpleNamespace(read=lambda _: [of(hypervisor)])
    found = [f for f in programs.check_hypervisors(runtime) if "web" in f.message]
    assert ["is not on PATH" in f.message for f in found] == [True]


def test_an_accelerator_that_is_none_keeps_every_vm_of_qemu_down(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`doctor` ends with 1 then, as for KVM that is asked for and does not work."""
    monkeypatch.setenv(kvm.VARIABLE, "xen")
    found = accelerators.judge(str(tmp_path))
    assert found.level == "error"
    assert "'xen'" in found.message
    assert found.hint
