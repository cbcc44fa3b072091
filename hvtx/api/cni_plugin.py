"""``host.cni_plugin``: the executable and the network configuration for container runtimes."""

from __future__ import annotations

import os
from collections.abc import Sequence

from hvtx import commands
from hvtx.api import given as check
from hvtx.api.calls import Calls, flags, path, texts
from hvtx.model.setting import EVERY, PATHS
from hvtx.model.typed import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from hvtx.commands.cni_install import File, Outcome

    Path = str | os.PathLike[str]

DEFAULT_NETWORK = "default"


class PrintedPlugin(NamedTuple):
    """The files, and why an install of them would be refused, if it would."""

    files: tuple[File, ...]
    refused: str | None


class CniPlugin:
    """Verbs of the plugin's files. What this Host was given becomes part of the configuration."""

    def __init__(self, calls: Calls) -> None:
        """Made by :attr:`hvtx.Host.cni_plugin`."""
        self._calls = calls

    def install(
        self,
        *,
        dir: Path | None = None,  # noqa: A002 - the option's name
        conf: Path | None = None,
        network: str | None = None,
        subnets: Sequence[str] = (),
        force: bool = False,
    ) -> Outcome:
        """Write the executable to ``dir``, and ``conf`` for it, where they differ.

        Raises UsageError, NotPermitted (others could change the program), Conflict (somebody else's
        file without ``force``), HostRefused.
        """
        flags(force=force)
        with self._calls.speaking():
            wanted = self._files(dir, conf, network, subnets)
            return commands.cni_install.install(wanted, force=force)

    def uninstall(
        self,
        *,
        dir: Path | None = None,  # noqa: A002
        conf: Path | None = None,
        force: bool = False,
    ) -> Outcome:
        """Remove both files; attachments, networks and the store stay as they are."""
        flags(force=force)
        with self._calls.speaking():
            places = commands.cni_install.parse_places(_path("dir", dir), _path("conf", conf))
            return commands.cni_install.uninstall(places, force=force)

    def print(
        self,
        *,
        dir: Path | None = None,  # noqa: A002
        conf: Path | None = None,
        network: str | None = None,
        subnets: Sequence[str] = (),
    ) -> PrintedPlugin:
        """The files as they would be written; writes nothing, needs no root."""
        with self._calls.speaking():
            wanted = self._files(dir, conf, network, subnets)
            found = commands.cni_install.changeable()
            return PrintedPlugin(wanted, None if found is None else found[0])

    def _files(
        self, directory: Path | None, conf: Path | None, network: str | None, subnets: Sequence[str]
    ) -> tuple[File, ...]:
        texts(network=network)
        given = check.options({"subnets": subnets}, frozenset(("subnets",)))
        places = commands.cni_install.parse_places(_path("dir", directory), _path("conf", conf))
        name = DEFAULT_NETWORK if network is None else network
        return commands.cni_install.make(places, name, given["subnets"], self._settings())

    def _settings(self) -> dict[str, str | float]:
        """What was given, here or by the environment; checked by being read."""
        _ = self._calls.settings
        given: dict[str, str | float] = {}
        for name in EVERY:
            value = self._calls.given.get(name) or os.environ.get(f"HVTX_{name.upper()}")
            if value:
                given[name] = os.path.abspath(value) if name in PATHS else str(value)
        return given


def _path(field: str, value: Path | None) -> str | None:
    return None if value is None else path(value, field)
