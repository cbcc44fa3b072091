"""firewalld's zone `hvtx` as `systemd install` puts it where no package has brought it.

A zone that firewalld meets at its start takes bridges at once; one that comes later waits for a
reload. One that was installed stays when the last network goes (docs/adr/0067).
"""

from __future__ import annotations

import os

from hvtx.engine.unit_files import below, bring, text_at
from hvtx.host import firewalld
from hvtx.host.firewalld_zones import zone_file
from hvtx.model.firewalld_zone import (
    PACKAGED,
    ZONE,
    described,
    described_as,
    is_bare,
    passing,
    staying,
    stays,
    zone_in,
    zone_text,
)

_SECONDS = 10.0  # for another installation, which changes the zone
FILE = f"{ZONE}.xml"


def install_zone(root: str) -> tuple[str, str] | None:
    """Let firewalld have the zone: its file below ``root``, and what became of it.

    None where there is no firewalld. ``kept``: somebody else's zone of the name is left alone.
    Raises HostRefused, NotPermitted.
    """
    brought = below(root, f"{PACKAGED}/{FILE}")
    if text_at(brought) is not None:
        return brought, "packaged"
    path = zone_file()
    if not os.path.isdir(below(root, os.path.dirname(os.path.dirname(path)))):
        return None
    with firewalld.locked(_SECONDS, root):
        text = text_at(below(root, path))
        zone = None if text is None else zone_in(text)
        if text is None or zone is None:
            state = bring(path, zone_text(staying(None)), "absent", root)
        elif not described(zone):
            state = "kept"
        elif stays(zone):
            state = "unchanged"
        else:  # with bridges of networks that are there already
            state = bring(path, described_as(text, staying(zone)), "differs", root)
    return below(root, path), state


def remove_zone(root: str) -> tuple[str, str] | None:
    """Take away what :func:`install_zone` wrote; bridges that are in the zone stay there.

    Such a zone goes with the last network. None where there is nothing of it. Raises as that.
    """
    path = zone_file()
    with firewalld.locked(_SECONDS, root):
        text = text_at(below(root, path))
        zone = None if text is None else zone_in(text)
        if text is None or zone is None or not stays(zone):
            return None
        left = passing(zone)
        bring(path, None if is_bare(text, left) else described_as(text, left), "differs", root)
    return below(root, path), "removed"


def needs_reload() -> bool:
    """Whether a firewalld runs here that does not know the zone yet. Raises HostRefused."""
    daemon = firewalld.running()
    return daemon is not None and ZONE not in daemon.zones()
