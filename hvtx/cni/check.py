"""What CHECK finds in a ``prevResult`` beside what the library finds in the host (pure).

A later plugin may have added interfaces, addresses and routes. What hvtx itself answered must still
be named as it was, or the runtime's record is of another ADD than the host's.
"""

from __future__ import annotations

from hvtx.cni.result import Previous
from hvtx.model.attachment import Attached, AttachmentRequest


def differences(asked: AttachmentRequest, there: Attached, previous: Previous) -> tuple[str, ...]:
    """What the runtime's record does not have, or has otherwise, in sentences."""
    host = {
        str(one.get("name")): str(one.get("mac") or "").lower()
        for one in previous.interfaces
        if not one.get("sandbox")
    }
    inside = {
        str(one.get("name")): str(one.get("mac") or "").lower()
        for one in previous.interfaces
        if one.get("sandbox") == asked.netns
    }
    where = f" in {asked.netns}"
    wanted = [
        (host, there.bridge, there.bridge_mac, ""),
        (host, there.host_device, there.host_mac, ""),
        (inside, asked.key.ifname, there.mac, where),
    ]
    if there.tap:
        wanted.append((inside, there.tap, there.tap_mac or "", where))
    found = []
    for told_there, name, mac, place in wanted:
        if name not in told_there:
            found.append(f"prevResult does not have the interface {name}{place}")
        elif mac and told_there[name] not in ("", mac.lower()):
            said = told_there[name]
            found.append(f"prevResult has {name}{place} with MAC {said}, and it was given {mac}")
    told = {str(one.get("address")) for one in previous.ips}
    found += [
        f"prevResult does not have the address {one.address}"
        for one in there.addresses
        if one.address not in told
    ]
    return tuple(found)
