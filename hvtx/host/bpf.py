"""Programs of eBPF: loading one by bpf(2), for which Python has no function."""

from __future__ import annotations

import array
import errno
import os
import struct

from hvtx.host import capabilities, system_call

_SYSCALLS = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "ppc64le": 361, "s390x": 351}
_MAP_CREATE, _PROG_LOAD, _SCHED_CLS, _ARRAY = 0, 5, 3, 2
# the same of a map: type, size of a key and of a value, how many, flags
_MAP_ATTR = struct.Struct("=IIIII")
# union bpf_attr, up to prog_name: type, count, instructions, licence, the verifier's log (level,
# size, place), kern_version, flags, name
_ATTR = struct.Struct("=IIQQIIQII16s")
_ENOTSUPP = 524  # include/linux/errno.h
_LACKS = frozenset(
    (errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EINVAL, errno.E2BIG, errno.EOPNOTSUPP,
     _ENOTSUPP)
)  # fmt: skip
_TRIES = 5  # EAGAIN: a signal came while the program was verified


def load(instructions: bytes, name: str) -> int | None:
    """A descriptor of a filter of tc; None where the kernel has no such programs or refuses.

    It is not asked without a capability for it: a filter of system calls may end who asks. Raises
    OSError for what is wrong with this process (no descriptor, no memory).
    """
    code = array.array("B", instructions)
    licence = array.array("B", b"Apache-2.0\0")
    places = (code.buffer_info()[0], licence.buffer_info()[0])
    wanted = _ATTR.pack(_SCHED_CLS, len(instructions) // 8, *places, 0, 0, 0, 0, 0, name.encode())
    return _called(_PROG_LOAD, wanted)


def value_map(size: int) -> int | None:
    """A descriptor of a map that is one value of zeros; None and OSError as of :func:`load`."""
    return _called(_MAP_CREATE, _MAP_ATTR.pack(_ARRAY, 4, size, 1, 0))


def permitted() -> bool:
    """Whether this process may ask for programs and maps."""
    return capabilities.has("CAP_BPF") or capabilities.has("CAP_SYS_ADMIN")


def _called(command: int, wanted: bytes) -> int | None:
    number = _SYSCALLS.get(os.uname().machine)
    if number is None or not permitted():
        return None
    syscall, last_error = system_call.found()
    for _ in range(_TRIES):
        made = syscall(number, command, wanted, len(wanted))
        if made >= 0:
            return int(made)
        code_of_error = last_error()
        if code_of_error != errno.EAGAIN:
            break
    if code_of_error in _LACKS:
        return None
    raise OSError(code_of_error, os.strerror(code_of_error))
