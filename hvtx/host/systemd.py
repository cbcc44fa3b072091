"""What systemd has made of a process, from the kernel's own files."""

from __future__ import annotations


def is_first_process() -> bool:
    """Whether systemd is the first process of our own pid namespace."""
    try:
        with open("/proc/1/comm") as file:
            return file.read() == "systemd\n"
    except OSError:
        return False


def is_in_unit(pid: int, unit: str) -> bool:
    """Whether a process is in a unit's control group. Raises OSError where it has ended."""
    with open(f"/proc/{pid}/cgroup") as file:
        return any(line.rstrip("\n").endswith(f"/{unit}") for line in file)
