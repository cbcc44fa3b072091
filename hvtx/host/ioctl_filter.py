"""A filter of system calls for VM processes: none gives a device another MAC address.

Whoever holds a descriptor of a TAP device may do so by an ioctl of the tun driver that asks for no
capability (SIOCSIFHWADDR, drivers/net/tun.c). The bridge then takes what is for that address as the
host's own: with the MAC of another guest, that guest is cut off. So a VM process, and all that it
starts, is refused this one ioctl (EPERM); of what is in its own namespaces, netlink changes it.

seccomp(2), with include/uapi/linux/{seccomp,audit}.h. The filter is put on a thread that starts the
process and ends. A filter that looks at a call's number first costs other calls nothing.
"""

from __future__ import annotations

import array
import errno
import os
import struct
from collections.abc import Callable

from hvtx.host import system_call
from hvtx.host.own_thread import in_own_thread
from hvtx.model.typed import TypeVar

SIOCSIFHWADDR = 0x8924
_SET_MODE_FILTER, _SPEC_ALLOW = 1, 4  # SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_SPEC_ALLOW
_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 22, 38
_NUMBER, _ARCHITECTURE, _COMMAND = 0, 4, 24  # in struct seccomp_data; of args[1] the lower half
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06  # BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_RET|K
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000 | errno.EPERM
# By machine: the number of seccomp(2), then AUDIT_ARCH_* and ioctl's number of all that it runs.
_X86_64, _I386, _AARCH64, _ARM = 0xC000003E, 0x40000003, 0xC00000B7, 0x40000028
_MACHINES = {
    "x86_64": (317, ((_X86_64, 16), (_X86_64, 0x40000000 | 514), (_I386, 54))),  # and x32
    "aarch64": (277, ((_AARCH64, 29), (_ARM, 54))),
}

T = TypeVar("T")


def program(calls: tuple[tuple[int, int], ...]) -> bytes:
    """The filter as ``struct sock_filter[]`` (pure).

    ``calls`` are architectures, and the number that ioctl(2) has there.
    """
    steps: list[tuple[int, int, int, int]] = []
    last = 4 * len(calls) + 3  # where a call is refused
    for architecture, number in calls:
        steps.append((_LOAD, 0, 0, _ARCHITECTURE))
        steps.append((_EQUAL, 0, 2, architecture))
        steps.append((_LOAD, 0, 0, _NUMBER))
        steps.append((_EQUAL, last - 2 - (len(steps) + 1), 0, number))
    steps += [
        (_RETURN, 0, 0, _ALLOW),
        (_LOAD, 0, 0, _COMMAND),
        (_EQUAL, 0, 1, SIOCSIFHWADDR),
        (_RETURN, 0, 0, _REFUSE),
        (_RETURN, 0, 0, _ALLOW),
    ]
    return b"".join(struct.pack("=HBBI", *step) for step in steps)


def start(work: Callable[[], T]) -> T:
    """What ``work`` returns or raises; the process that it starts has the filter.

    Without it where it cannot be had (:func:`problem`). Raises OSError where there can be no thread
    more.
    """
    machine = _MACHINES.get(os.uname().machine)
    if machine is None:
        return work()

    def filtered() -> T:
        _filter_this_thread(*machine)
        return work()

    try:
        return in_own_thread(filtered)
    except RuntimeError as problem:
        raise OSError(errno.EAGAIN, f"no thread to start it from: {problem}") from problem


def problem() -> str | None:
    """Why no process can be given the filter here, in words; None where it can.

    It is tried on a thread that ends. Raises RuntimeError where there can be no thread more.
    """
    name = os.uname().machine
    if name not in _MACHINES:
        return f"nothing is known of system calls of {name}"
    number = in_own_thread(lambda: _filter_this_thread(*_MACHINES[name]))
    return f"seccomp(2): {os.strerror(number)}" if number else None


def _filter_this_thread(number: int, calls: tuple[tuple[int, int], ...]) -> int:
    """Put the filter on the calling thread; 0, or the errno of why that cannot be done."""
    syscall, last_error = system_call.found()
    code = array.array("B", program(calls))
    wanted = struct.pack("@HP", len(code) // 8, code.buffer_info()[0])  # struct sock_fprog

    def prctl(*words: int | bytes) -> int:  # hardly ever needed
        return int(system_call.found("prctl")[0](*words))

    def put() -> int:
        """0, or an errno. The older call has no flags: some kernels slow down who has a filter."""
        if not syscall(number, _SET_MODE_FILTER, _SPEC_ALLOW, wanted):
            return 0
        if last_error() == errno.EACCES or prctl(_PR_SET_SECCOMP, 2, wanted, 0, 0):
            return int(last_error())
        return 0

    refused = put()
    if refused == errno.EACCES:  # only with CAP_SYS_ADMIN, or for who can get no more rights
        prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        refused = put()
    return refused
