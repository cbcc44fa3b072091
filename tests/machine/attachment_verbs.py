"""Attachments as a command of the tests' own: what a runtime asks for, as a command line.

``attachments add PATH [CONTAINER [TAP]]``, ``del [CONTAINER]``, ``gc``: each is the library's verb of that
name, and ends with the exit code of its error; ``gc`` with 9 where it could not see or do all.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from hvtx.api import Host
from hvtx.cli.main import run as run_cli
from hvtx.errors import HvtxError, PartialFailure
from hvtx.model.attachment import AttachmentKey, AttachmentRequest, PodLabels, TapRequest
from hvtx.model.vm import Publish

WORD = "attachments"  # the first word of such a command line
KEY = AttachmentKey("podnet", "c0ffee", "eth0")
SUBNETS = ("10.77.0.0/24", "fd77::/64")
_PORTS = {KEY.container: 8080, "c0": 9080}  # by container, of those that publish one


def key_of(container: str) -> AttachmentKey:
    """By what the tests' runtime tells a container's attachment."""
    return KEY._replace(container=container)


def request(netns: str, container: str = KEY.container, tap: str = "") -> AttachmentRequest:
    """What the tests' runtime asks for; with the name of a TAP device, for a VM in the container."""
    port = _PORTS.get(container)
    ports = () if port is None else (Publish("tcp", None, port, 80),)
    pod = PodLabels("web-0", "default", "uid-1")
    inner = TapRequest(tap) if tap else None
    return AttachmentRequest(
        key_of(container), "net", netns, SUBNETS, publish=ports, pod=pod, tap=inner
    )


def run(words: Sequence[str]) -> int:
    """The command line after the first word; its exit code."""
    verb, *more = words
    try:
        with Host() as host:
            if verb == "add":
                host.attachments.add(request(*more))
            elif verb == "del":
                host.attachments.delete(key_of(*more) if more else KEY)
            else:
                kept = host.attachments.collect(KEY.network, []).kept
                for one in kept:
                    sys.stderr.write(f"{'error' if one.failed else 'kept'}: {one.message}\n")
                return PartialFailure.exit_code if any(one.failed for one in kept) else 0
    except HvtxError as problem:
        sys.stderr.write(f"error: {problem.message}\nhint: {problem.hint}\n")
        return problem.exit_code
    return 0


def command_line(argv: Sequence[str]) -> int:
    """A command line of hvtx's, or of these."""
    return run(argv[1:]) if argv and argv[0] == WORD else run_cli(argv)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
