"""What CHECK finds in a ``prevResult`` beside what the library finds in the host (pure).

A later plugin may have added interfaces, addresses and routes (of another MAC inside the library
tells). What hvtx itself answered must still be named as it was, or the runtime's record is of
another ADD than the host's.
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
        str(one.get("name")) for one in previous.interfaces if one.get("sandbox") == asked.netns
    }
    found = []
    for name, mac in ((there.bridge, there.bridge_mac), (there.host_device, there.host_mac)):
        if name not in host:
            found.append(f"prevResult does not have the interface {name}")
        elif host[name] not in ("", mac.lower()):
            found.append(f"prevResult has {name} with MAC {host[name]}, and it has {mac}")
    wanted = [asked.key.ifname, *([there.tap] if there.tap else ())]
    found += [
        f"prevResult does not have the interface {name} in {asked.netns}"
        for name in wanted
        if name not in inside
    ]
    told = {str(one.get("address")) for one in previous.ips}
    found += [
        f"prevResult does not have the address {one.address}"
        for one in there.addresses
        if one.address not in told
    ]
    return tuple(found)
