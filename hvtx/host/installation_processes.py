"""Processes of an installation, by their command line and environment."""

from __future__ import annotations

import os
from collections.abc import Collection

from hvtx.model.typed import NamedTuple


class Users(NamedTuple):
    """Processes in words; ``complete`` is false if some could not be looked into."""

    found: tuple[str, ...]
    complete: bool


def of(installation: str, devices: Collection[str]) -> Users:
    """Processes with one of the devices in their ``HVTX_TAP…``, or that work in a VM's directory.

    An environment is what a process began with, so that of a hypervisor which hvtx started tells.
    """
    found, complete = [], True
    place = f"/{installation}/vms/"
    values = {device.encode() for device in devices}
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) in (1, os.getpid()):
            continue  # hvtx starts nobody as the first process, which may be greater than we are
        try:
            here = place in _link(f"/proc/{name}/cwd") + "/"
            if here or _mentions(name, values):
                found.append(f"{_command(name)} (pid {name})")
        except (FileNotFoundError, ProcessLookupError):
            continue
        except OSError:
            complete = False
    return Users(tuple(found), complete)


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except FileNotFoundError:  # a kernel thread, or it has ended
        return ""


def _mentions(pid: str, devices: Collection[bytes]) -> bool:
    with open(f"/proc/{pid}/environ", "rb", buffering=0) as file:
        words = file.readall().split(b"\0")
    values = (w.partition(b"=")[2] for w in words if w.startswith(b"HVTX_TAP"))
    return any(value in devices for value in values)


def _command(pid: str) -> str:
    with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
        return file.read().rstrip("\n")
