"""VMs that systemd starts, each in a unit of its own, for a run that is shut in."""

from __future__ import annotations

import os
import sys

from hvtx.engine.runtime import Settings
from hvtx.engine.shut_in import AUTOSTART
from hvtx.engine.units import serve_call, start_call
from hvtx.errors import HostRefused

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


def start_vm(settings: Settings, name: str) -> None:
    """Let systemd start VM ``name``, and wait for it. Raises HostRefused if it did not come up."""
    call = start_call(program_path(sys.argv[0]), _flags(settings), name, _passed())
    _run(
        settings, call, f"VM {name!r} did not start",
        f"(journalctl -u hvtx-start-{name})", f"hvtx vm start {name}",
    )  # fmt: skip


def serve(settings: Settings) -> None:
    """Let systemd start networks' dnsmasq, and wait for it. Raises HostRefused."""
    call = serve_call(program_path(sys.argv[0]), _flags(settings), _passed())
    words = "networks have no DHCP and DNS"
    _run(settings, call, words, "(journalctl -u hvtx-serve)", "hvtx repair")


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


def _run(settings: Settings, call: tuple[str, ...], failed: str, where: str, by_hand: str) -> None:
    from hvtx.host import program

    found = program.find((call[0], f"/usr/bin/{call[0]}"))
    if found is None:
        raise HostRefused(
            f"{failed}: {call[0]} is missing",
            hint=f"install systemd's {call[0]}, or do it by hand: {by_hand}",
        )
    ended = program.run((found, *call[1:]), settings.lock_timeout + _START_SECONDS)
    if ended.status == 0:
        return
    words = " ".join(ended.output.split())
    why = "it was not up in time" if ended.status is None else words or "systemd did not start it"
    raise HostRefused(f"{failed}: {why} {where}", hint=f"{by_hand} tries again")
