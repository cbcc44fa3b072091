"""Containers' network namespaces, for the command lines of :mod:`tests.machine.attachment_verbs`."""

from __future__ import annotations

import json
import time

from hvtx.model.attachment import AttachmentKey, AttachmentRequest
from hvtx.model.vm import Publish
from integration import lab
from tests.machine.attachment_verbs import WORD

__all__ = ["WORD"]
BOXES: list[lab.Namespace] = []  # containers' network namespaces


def box() -> lab.Namespace:
    """One more container."""
    BOXES.append(lab.Namespace())
    return BOXES[-1]


def path() -> str:
    """Of the last container's network namespace; empty where there is none."""
    return f"/proc/{BOXES[-1].pid}/ns/net" if BOXES else ""


def asked(port: int) -> AttachmentRequest:
    """What a runtime asks for the last container: the network `net`, a port published to its 80."""
    key = AttachmentKey("net", "c0ffee", "eth0")
    return AttachmentRequest(key, "net", path(), publish=(Publish("tcp", None, port, 80),))


def end_boxes() -> None:
    """End them, with what is in them; the kernel needs a moment for the host's ends of pairs."""
    ended = bool(BOXES)
    while BOXES:
        BOXES.pop().close()
    deadline = time.monotonic() + 60
    while ended and time.monotonic() < deadline:
        if not lab.run("ip", "-o", "link", "show", "type", "veth"):
            return
        time.sleep(0.002)


def inside() -> list[dict[str, list[str]]]:
    """The interfaces in the containers' network namespaces, with the addresses that ADD gives."""
    found = []
    for one in BOXES:
        links = json.loads(one.run("ip", "-j", "addr"))
        found.append({
            link["ifname"]: [a["local"] for a in link["addr_info"] if a["scope"] == "global"]
            for link in links
        })  # fmt: skip
    return found
