"""What makes systemd do something outside of the sandbox of our units (pure).

Transient services: systemd-run(1), which waits for their end and fails with them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def start_call(
    program: Sequence[str], arguments: Sequence[str], vms: Sequence[str], env: Mapping[str, str]
) -> tuple[str, ...]:
    """What makes systemd start VMs in a service of their own, outside of any sandbox.

    The service ends when they are up; their processes are left alone then (KillMode), should the
    scope that a VM moves into not have been made. systemd-run waits for it, and fails with it.
    """
    words = (*arguments, "vm", "start", *vms)
    what = f"start of VM {vms[0]}" if len(vms) == 1 else f"start of {len(vms)} VMs"
    return _outside(start_unit(vms), what, program, words, env)


def start_unit(vms: Sequence[str]) -> str:
    """The name of that service, behind ``hvtx-``: no VM has a dot in its name."""
    return f"start-{vms[0]}" + (f".{len(vms)}" if len(vms) > 1 else "")


def serve_call(
    program: Sequence[str], arguments: Sequence[str], environment: Mapping[str, str]
) -> tuple[str, ...]:
    """The same of what starts networks' dnsmasq, which the sandbox would shut in for good."""
    words = (*arguments, "repair")
    return _outside("serve", "DHCP and DNS of networks", program, words, environment)


def collect_call(
    program: Sequence[str], arguments: Sequence[str], environment: Mapping[str, str]
) -> tuple[str, ...]:
    """The same of what ends networks' dnsmasq, for which the sandbox has no capability."""
    words = (*arguments, "gc", "--apply")
    return _outside("collect", "what the sandbox of gc forbids", program, words, environment)


def _outside(
    name: str, what: str, program: Sequence[str], words: Sequence[str], given: Mapping[str, str]
) -> tuple[str, ...]:
    return (
        *("systemd-run", "--quiet", "--collect"),
        f"--unit=hvtx-{name}",
        f"--description=hvtx recover: {what}",
        "--property=Type=oneshot",
        "--property=KillMode=process",
        *(f"--setenv={name}={value}" for name, value in sorted(given.items())),
        "--",
        *program,
        *words,
    )
