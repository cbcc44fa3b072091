"""``host.systemd``: the units that recover at boot, collect by the hour and follow firewalls."""

from __future__ import annotations

import os
import sys

from hvtx import commands
from hvtx.api.calls import Calls, path
from hvtx.errors import NotFound
from hvtx.model.setting import EVERY, PATHS
from hvtx.model.typed import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from hvtx.commands.systemd import Outcome
    from hvtx.engine.units import Place, Unit

    Path = str | os.PathLike[str]

_OF_VMS = ("qemu_accel",)  # of the environment only, for VMs that recovery starts


class Printed(NamedTuple):
    """The units, and why an install of them would be refused, if it would.

    ``files`` go with them: by these other programs of the host leave devices of hvtx alone.
    """

    units: tuple[Unit, ...]
    refused: str | None
    files: tuple[Unit, ...] = ()


class Units:
    """Verbs of systemd's units. What this Host was given becomes part of the units."""

    def __init__(self, calls: Calls) -> None:
        """Made by :attr:`hvtx.Host.systemd`."""
        self._calls = calls

    def install(self, *, root: Path = "/", metrics: Path | None = None) -> Outcome:
        """Write the units where they differ, enable them, and start the timer.

        ``root`` is another system's root directory; ``metrics`` a file that is written by the
        minute. Raises NotFound, NotPermitted, Conflict (a foreign file), HostRefused (systemd).
        """
        file = None if metrics is None else path(metrics, "metrics")
        where = _directory(root)
        with self._calls.speaking():
            return commands.systemd.install(self._place(file), where)

    def uninstall(self, *, root: Path = "/") -> Outcome:
        """Disable and remove the units; VMs, networks and the store stay as they are."""
        where = _directory(root)
        with self._calls.speaking():
            return commands.systemd.uninstall(where)

    def print(self, *, metrics: Path | None = None) -> Printed:
        """The units as they would be written; writes nothing, needs no root."""
        from hvtx.engine.units import shields

        file = None if metrics is None else path(metrics, "metrics")
        with self._calls.speaking():
            where = self._place(file)
            found = commands.systemd.changeable(where)
            made = commands.systemd.make(where)
            return Printed(made, None if found is None else found[0], shields())

    def _place(self, metrics: str | None) -> Place:
        known = self._calls.settings
        return commands.systemd.place(
            known.state_directory,
            known.run_directory,
            self._environment(),
            sys.argv[0],
            None if metrics is None else os.path.abspath(metrics),
            known.group,
            known.cluster,
        )

    def _environment(self) -> dict[str, str]:
        """What was given, here or by the environment, as the variables of the units."""
        given: dict[str, str] = {}
        for name in (*EVERY, *_OF_VMS):
            variable = f"HVTX_{name.upper()}"
            value = self._calls.given.get(name) or os.environ.get(variable)
            if value:
                given[variable] = os.path.abspath(value) if name in PATHS else str(value)
        return given


def _directory(root: Path) -> str:
    named = path(root, "root")
    if not os.path.isdir(named):
        raise NotFound(
            f"the root directory {named} does not exist",
            hint="mount or unpack the system there first, or leave --root out for this one",
        )
    return named
