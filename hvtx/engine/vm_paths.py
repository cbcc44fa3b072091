"""Paths of a VM's files: its log, and its run-time directory. Of paths, not of a run."""

from __future__ import annotations

import contextlib
import os

from hvtx.host.logger import older
from hvtx.model.vm import Vm


def log_path(state_directory: str, vm: Vm) -> str:
    """Where a VM's output is kept."""
    return os.path.join(state_directory, "logs", f"{vm.name}.log")


def log_hint(log: str) -> str:
    """What is read where a VM has no console; ``log`` is its :func:`log_path`."""
    name = os.path.basename(log).removesuffix(".log")
    return f"`hvtx vm logs {name}` prints what the VM wrote; it is in {log}"


def log_paths(state_directory: str, vm: Vm) -> list[str]:
    """Both halves of a VM's log, as far as they are there, the older first."""
    path = log_path(state_directory, vm)
    return [half for half in (older(path), path) if os.path.exists(half)]


def remove_log(state_directory: str, vm: Vm) -> None:
    """Remove both halves of a VM's log, as far as they are there."""
    path = log_path(state_directory, vm)
    for half in (older(path), path):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(half)


def run_directory(run_directory: str, vm: Vm) -> str:
    """A VM's run-time directory (sockets, rendered configuration) in that of the installation."""
    return os.path.join(run_directory, "vms", vm.id)
