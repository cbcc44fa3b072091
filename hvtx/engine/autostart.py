"""VMs that systemd starts, each in a unit of its own, for a run that is shut in."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from hvtx.engine.runtime import Settings
from hvtx.engine.shut_in import AUTOSTART
from hvtx.engine.transient_units import collect_call, serve_call, start_call, start_unit
from hvtx.errors import HostRefused

_EACH_SECONDS = 15.0  # more for each VM: READY_SECONDS, and to spare
_START_SECONDS = 120.0  # above the waiting for locks; far above what a start takes


def program_path(argv0: str) -> tuple[str, ...]:
    """The installed ``hvtx`` by its absolute path; else this interpreter with ``-m hvtx``."""
    from hvtx.host import program

    called = argv0 if os.path.basename(argv0) == "hvtx" else "hvtx"
    beside = os.path.join(os.path.dirname(sys.executable), "hvtx")
    found = program.find((called, beside))
    if found is not None:
        return (os.path.abspath(found),)
    return (os.path.abspath(sys.executable), "-m", "hvtx")


def start_vms(settings: Settings, names: Sequence[str]) -> None:
    """Let systemd start VMs, and wait for them. Raises HostRefused if not all of them came up."""
    call = start_call(program_path(sys.argv[0]), _flags(settings), names, _passed())
    told = f"VM {names[0]!r}" if len(names) == 1 else "some VMs"
    _run(
        settings, call, f"{told} did not start", f"({journal_of(names)})",
        f"hvtx vm start {' '.join(names)}", seconds=_EACH_SECONDS * len(names),
    )  # fmt: skip


def journal_of(names: Sequence[str]) -> str:
    """The command that shows what the start of these VMs told."""
    return f"journalctl -u hvtx-{start_unit(names)}"


def serve(settings: Settings) -> None:
    """Let systemd start networks' dnsmasq, and wait for it. Raises HostRefused."""
    call = serve_call(program_path(sys.argv[0]), _flags(settings), _passed())
    words = "networks have no DHCP and DNS"
    _run(settings, call, words, "(journalctl -u hvtx-serve)", "hvtx repair")


def collect(settings: Settings) -> None:
    """Let systemd run `hvtx gc --apply`, and wait for it. Raises HostRefused."""
    call = collect_call(program_path(sys.argv[0]), _flags(settings), _passed())
    words = "what is left of networks' services stays"
    _run(settings, call, words, "(journalctl -u hvtx-collect)", "hvtx gc --apply")


def _flags(settings: Settings) -> tuple[str, ...]:
    return (
        *("--state-dir", settings.state_directory, "--run-dir", settings.run_directory),
        *("--firewall", settings.firewall, "--lock-timeout", str(settings.lock_timeout)),
    )


def _passed() -> dict[str, str]:
    return {
        variable: value
        for variable, value in os.environ.items()
        if variable == "PATH" or (variable.startswith("HVTX_") and variable != AUTOSTART)
    }


def _run(
    settings: Settings,
    call: tuple[str, ...],
    failed: str,
    where: str,
    by_hand: str,
    *,
    seconds: float = 0.0,
) -> None:
    from hvtx.host import program

    found = program.find((call[0], f"/usr/bin/{call[0]}"))
    if found is None:
        raise HostRefused(
            f"{failed}: {call[0]} is missing",
            hint=f"install systemd's {call[0]}, or do it by hand: {by_hand}",
        )
    ended = program.run((found, *call[1:]), settings.lock_timeout + _START_SECONDS + seconds)
    if ended.status == 0:
        return
    said = " ".join(ended.output.split())
    late, how = "it was not up in time", f"{call[0]} {program.how(ended.status)}"
    silent = how if ended.status == program.UNTOLD else "systemd did not start it"
    why = late if ended.status is None else said or silent
    raise HostRefused(f"{failed}: {why} {where}", hint=f"{by_hand} tries again")
