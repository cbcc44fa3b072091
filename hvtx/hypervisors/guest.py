"""Guest states as hypervisors report them, in the words of the interface; hints from their logs.

Sources: ``RunState`` in qapi/run-state.json of QEMU; ``InstanceInfo`` in
src/firecracker/swagger/firecracker.yaml of Firecracker; ``VmInfo`` in
vmm/src/api/openapi/cloud-hypervisor.yaml of Cloud Hypervisor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

from hvtx.hypervisors.base import PowerDown, Ready
from hvtx.model.guest import Guest

WORDS: Mapping[str, Mapping[str, Guest]] = {
    "qmp": {
        "running": Guest.RUNNING,
        "internal-error": Guest.INTERNAL_ERROR,
        "guest-panicked": Guest.PANICKED,
        "shutdown": Guest.SHUTDOWN,
        "io-error": Guest.IO_ERROR,
        # whose processors stand still, for whatever reason
        "colo": Guest.PAUSED,
        "debug": Guest.PAUSED,
        "finish-migrate": Guest.PAUSED,
        "inmigrate": Guest.PAUSED,
        "paused": Guest.PAUSED,
        "postmigrate": Guest.PAUSED,
        "preconfig": Guest.PAUSED,
        "prelaunch": Guest.PAUSED,
        "restore-vm": Guest.PAUSED,
        "save-vm": Guest.PAUSED,
        "suspended": Guest.PAUSED,
        "watchdog": Guest.PAUSED,
    },
    "firecracker api": {
        "Not started": Guest.PAUSED,
        "Running": Guest.RUNNING,
        "Paused": Guest.PAUSED,
    },
    "cloud-hypervisor api": {
        "Created": Guest.PAUSED,
        "Running": Guest.RUNNING,
        "Shutdown": Guest.SHUTDOWN,
        "Paused": Guest.PAUSED,
        "BreakPoint": Guest.PAUSED,
    },
}

ASKED: Mapping[PowerDown, Ready] = {
    "qmp": "qmp",
    "ctrl-alt-del api": "firecracker api",
    "power-button api": "cloud-hypervisor api",
}
"""How the guest is asked that is powered down in such a way."""


def guest_of(how: Ready, word: str) -> Guest:
    """What ``word``, said by a hypervisor that is asked ``how``, means; unknown words: UNKNOWN."""
    return WORDS.get(how, {}).get(word, Guest.UNKNOWN)


def described(guest: Guest, word: str) -> str:
    """The guest's state for a message, with the hypervisor's own word where that says more."""
    return guest.value if word.lower() in ("", guest.value) else f"{guest.value} ({word})"


_TELLING = (
    r"(?i)error|fail|abort|assert|panic|fatal|cannot|can't|could not|unable|invalid|denied|refused"
    r"|not supported|unsupported|no such|segfault"
)
_REFUSAL = r"(?i)permission denied|operation not permitted|EACCES|EPERM"
_MOST_TELLING, _MOST_AFTER = 5, 3
LEFT_OUT = "…"


def is_refusal(lines: str) -> bool:
    """Whether a log tells of something that a process was not allowed."""
    import re

    return re.search(_REFUSAL, lines) is not None


def telling(lines: Sequence[str], most: int) -> list[str]:
    """At most ``most`` lines of a log that say best why something ended.

    The last lines, as ever; but where a dump of registers stands behind the line that says what
    happened, the first such lines come before them, with an ellipsis for what is left out.
    """
    if len(lines) <= most:
        return list(lines)
    import re

    told = [n for n, line in enumerate(lines) if re.search(_TELLING, line)]
    early = [n for n in told if n < len(lines) - most]
    if not early:
        return list(lines[-most:])
    first = early[: min(_MOST_TELLING, most - 1)]
    rest = min(_MOST_AFTER, most - 1 - len(first))
    return [*(lines[n] for n in first), LEFT_OUT, *lines[len(lines) - rest :]]


def uses_kvm(argv: Sequence[str]) -> bool:
    """Whether a command line of QEMU takes KVM."""
    return any(
        option == "-accel" and value.partition(",")[0] == "kvm" for option, value in pairwise(argv)
    )
