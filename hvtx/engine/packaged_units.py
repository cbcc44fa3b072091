"""The units as hvtx's Debian package has them, and how an installation changes them (pure)."""

from __future__ import annotations

import os

from hvtx.engine.units import (
    FIREWALLS,
    FOLLOWERS,
    MARKER,
    PACKAGE_MARKER,
    PACKAGED,
    REPAIR_AFTER,
    Place,
    Unit,
    shields,
    units,
)
from hvtx.model.firewalld_zone import PACKAGED as ZONES_OF_PACKAGES
from hvtx.model.firewalld_zone import ZONE, zone_text
from hvtx.planner.network_managers import DNSMASQ_DIRECTORY


def packaged() -> tuple[Unit, ...]:
    """The units as the Debian package has them: its program, the usual places, no settings."""
    made = units(Place(("/usr/bin/hvtx",), "/var/lib/hvtx", "/run/hvtx", {}))
    files = [unit._replace(directory=PACKAGED) for unit in made]
    files += [packaged_as(unit) for unit in shields()]
    return tuple(u._replace(text=_of_the_package(u)) for u in files)


def packaged_zone() -> Unit:
    """Firewalld's zone `hvtx` as the Debian package has it.

    firewalld knows it from its next start or reload on, and puts bridges into it at once.
    """
    by = PACKAGE_MARKER.removeprefix("# ")
    return Unit(f"{ZONE}.xml", zone_text(by=by), ZONES_OF_PACKAGES)


def _of_the_package(unit: Unit) -> str:
    """Its text there; what follows firewalls does so by links, and is not enabled."""
    text = unit.text.replace(MARKER, PACKAGE_MARKER, 1)
    return text.partition("\n[Install]")[0] if unit.name == REPAIR_AFTER else text


def packaged_as(shield: Unit) -> Unit:
    """A file for another program of the host where the Debian package has it.

    dnsmasq reads none below /usr: the package's is a configuration file, whose name differs from
    that of ``hvtx systemd install``, or dpkg would ask whose to keep.
    """
    if shield.directory == DNSMASQ_DIRECTORY:
        return shield._replace(name=shield.name.removesuffix(".conf"))
    return shield._replace(directory=shield.directory.replace("/etc/", "/usr/lib/", 1))


def homes(shield: Unit) -> tuple[str, ...]:
    """Directories of which one is there where the program that reads the file is installed."""
    if shield.directory == DNSMASQ_DIRECTORY:
        return (shield.directory,)
    home = os.path.dirname(shield.directory)
    return home, home.replace("/etc/", "/usr/lib/", 1)


def packaged_links() -> dict[str, str]:
    """Links by which the package's units follow firewalls without being enabled: path, target."""
    return {
        f"{PACKAGED}/{name}.service.wants/{follower}": f"../{REPAIR_AFTER}"
        for name, follower in zip(FIREWALLS, FOLLOWERS, strict=True)
    }


# Directives that are a list, where a drop-in must say that it does not mean to add to it.
_REPLACED = ("ConditionPathExists", "ExecStart", "ExecReload")


def drop_in(text: str, wanted: str) -> str | None:
    """A drop-in that makes the unit ``text`` act as ``wanted``; None if it does already."""
    had, section, made, opened = set(text.splitlines()), "", [MARKER], ""
    for line in wanted.splitlines():
        if line.startswith("["):
            section = line
        elif line and line[0] != "#" and line not in had and section != "[Install]":
            if opened != section:
                made += ["", section]
                opened = section
            directive = line.partition("=")[0]
            made += [f"{directive}=", line] if directive in _REPLACED else [line]
    return "\n".join(made) + "\n" if opened else None
