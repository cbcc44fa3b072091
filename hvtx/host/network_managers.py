"""Managers of networks that run here, and which of a host's devices they have taken up.

systemd-networkd keeps what it makes of each link in files of its own, NetworkManager tells it by
its tool. A daemon of another network namespace (a container's, whose processes are seen from
outside) manages devices of that one.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable

from hvtx.host import paths, program
from hvtx.model.typed import NamedTuple

NETWORKD, NETWORK_MANAGER = "systemd-networkd", "NetworkManager"
_COMMANDS = {"systemd-network": NETWORKD, "NetworkManager": NETWORK_MANAGER}  # of 15 characters
_MOST = 1 << 16  # bytes of a file of networkd's
_SECONDS = 10.0
_LEAVES_ALONE = frozenset({"", "unmanaged", "pending", "initialized"})


class ManagedDevice(NamedTuple):
    """A device that a manager has taken up; ``by``: the file that told it to, or its state."""

    device: str
    by: str


class Manager(NamedTuple):
    """A manager of networks that runs in this network namespace."""

    name: str
    devices: tuple[ManagedDevice, ...] = ()
    files: frozenset[str] = frozenset()  # those of `known` that it sees
    unknown: str | None = None  # why it cannot be told what it has taken


def managers(devices: Iterable[tuple[int, str]], known: Collection[str]) -> list[Manager]:
    """Those that run here, and which of ``devices`` (index, name) they have. Raises OSError.

    ``known`` are paths of files that keep them from devices.
    """
    here = os.stat("/proc/thread-self/ns/net")
    found, devices = [], list(devices)
    for name, pid in sorted(_running()):
        try:
            its = os.stat(f"/proc/{pid}/ns/net")
        except FileNotFoundError:
            continue  # it ended
        except OSError as problem:
            found.append(Manager(name, unknown=f"pid {pid}: {problem.strerror}"))
            continue
        if (its.st_dev, its.st_ino) != (here.st_dev, here.st_ino):
            continue
        files = frozenset(path for path in known if os.path.lexists(f"/proc/{pid}/root{path}"))
        look = _by_networkd if name == NETWORKD else _by_network_manager
        found.append(look(pid, devices)._replace(files=files))
    return found


def _running() -> set[tuple[str, int]]:
    found = set()
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/comm", encoding="utf-8", errors="replace") as comm:
                    name = _COMMANDS.get(comm.read().strip())
            except OSError:
                continue
            if name is not None:
                found.add((name, int(entry)))
    return found


def _by_networkd(pid: int, devices: Iterable[tuple[int, str]]) -> Manager:
    """What a networkd says; its ``/run`` may be another than ours."""
    managed = []
    for index, device in devices:
        path = f"/proc/{pid}/root/run/systemd/netif/links/{index}"
        try:
            text = paths.read_regular(path, _MOST).decode(errors="replace")
        except FileNotFoundError:
            continue
        except OSError as problem:
            return Manager(NETWORKD, unknown=f"{path}: {problem.strerror}")
        by = file_of(text)
        if by is not None:
            managed.append(ManagedDevice(device, by))
    return Manager(NETWORKD, tuple(managed))


def file_of(text: str) -> str | None:
    """The file by which networkd manages a link, from its state; None if it does not (pure)."""
    said = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    if said.get("ADMIN_STATE", "") in _LEAVES_ALONE:
        return None
    return said.get("NETWORK_FILE") or None


def _by_network_manager(_: int, devices: Iterable[tuple[int, str]]) -> Manager:
    tool = program.find(("nmcli",))
    if tool is None:
        return Manager(NETWORK_MANAGER, unknown="nmcli is not on PATH")
    asked = (tool, "--terse", "--fields", "DEVICE,STATE", "device")
    try:
        ended = program.run(asked, _SECONDS, {**os.environ, "LC_ALL": "C"})
    except OSError as problem:
        return Manager(NETWORK_MANAGER, unknown=f"{tool}: {problem.strerror}")
    said_no = not ended.output.strip() or ended.output.startswith("Error:")
    if not program.ended_well(ended.status, shown=not said_no):
        words = " ".join(ended.output.split()) or "it gave no answer"
        return Manager(NETWORK_MANAGER, unknown=f"{tool}: {words}")
    states = states_of(ended.output)
    known = [(device, states.get(device, "unmanaged")) for _, device in devices]
    managed = (ManagedDevice(device, state) for device, state in known if state != "unmanaged")
    return Manager(NETWORK_MANAGER, tuple(managed))


def states_of(text: str) -> dict[str, str]:
    """The state of each device, from what ``nmcli --terse`` prints (pure)."""
    lines = [line.rpartition(":") for line in text.splitlines()]
    return {device.replace("\\", ""): state for device, _, state in lines if device}
