"""Attachments as a command of the tests' own: what a runtime asks for, in a process of its own.

``attachments add PATH``, ``del``, ``gc``: each is the library's verb of that name, and ends with
the exit code of its error.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence

from hvtx.api import Host
from hvtx.errors import HvtxError, PartialFailure
from hvtx.model.attachment import AttachmentKey, AttachmentRequest, PodLabels
from hvtx.model.vm import Publish
from integration import lab

WORD = "attachments"  # the first word of such a command line
KEY = AttachmentKey("podnet", "c0ffee", "eth0")
SUBNETS = ("10.77.0.0/24", "fd77::/64")
BOXES: list[lab.Namespace] = []  # containers' network namespaces


def box() -> lab.Namespace:
    """One more container."""
    BOXES.append(lab.Namespace())
    return BOXES[-1]


def path() -> str:
    """Of the last container's network namespace; empty where there is none."""
    return f"/proc/{BOXES[-1].pid}/ns/net" if BOXES else ""


def end_boxes() -> None:
    """End them, with what is in them; the kernel needs a moment for the host's ends of pairs."""
    ended = bool(BOXES)
    while BOXES:
        BOXES.pop().close()
    deadline = time.monotonic() + 10
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


def request(netns: str) -> AttachmentRequest:
    """What the tests' runtime asks for."""
    ports = (Publish("tcp", None, 8080, 80),)
    pod = PodLabels("web-0", "default", "uid-1")
    return AttachmentRequest(KEY, "net", netns, SUBNETS, publish=ports, pod=pod)


def run(words: Sequence[str]) -> int:
    """The command line after the first word; its exit code."""
    verb, *more = words
    try:
        with Host() as host:
            if verb == "add":
                host.attachments.add(request(*more))
            elif verb == "del":
                host.attachments.delete(KEY)
            else:
                kept = host.attachments.collect(KEY.network, []).kept
                for one in kept:
                    sys.stderr.write(f"{'error' if one.failed else 'kept'}: {one.message}\n")
                return PartialFailure.exit_code if any(one.failed for one in kept) else 0
    except HvtxError as problem:
        sys.stderr.write(f"error: {problem.message}\nhint: {problem.hint}\n")
        return problem.exit_code
    return 0
