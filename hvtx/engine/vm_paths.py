"""Where the files of a VM stand: its log, and its run-time directory."""

from __future__ import annotations

import contextlib
import os

from hvtx.engine.runtime import Runtime
from hvtx.host.logger import older
from hvtx.model.vm import Vm


def log_path(runtime: Runtime, vm: Vm) -> str:
    """Where a VM's output is kept."""
    return os.path.join(runtime.settings.state_directory, "logs", f"{vm.name}.log")


def log_paths(runtime: Runtime, vm: Vm) -> list[str]:
    """Both halves of a VM's log, as far as they are there, the older first."""
    path = log_path(runtime, vm)
    return [half for half in (older(path), path) if os.path.exists(half)]


def remove_log(runtime: Runtime, vm: Vm) -> None:
    """Remove both halves of a VM's log, as far as they are there."""
    path = log_path(runtime, vm)
    for half in (older(path), path):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(half)


def run_directory(runtime: Runtime, vm: Vm) -> str:
    """A VM's run-time directory: sockets and rendered configuration."""
    return os.path.join(runtime.store.run_directory, "vms", vm.id)
