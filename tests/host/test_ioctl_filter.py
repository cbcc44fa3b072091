"""The filter of system calls that a VM process gets, on the real kernel; no privilege is needed."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import struct
import subprocess
import sys

import pytest

from hvtx.host import ioctl_filter, system_call

# What each way of calling says: of a pipe ENOTTY (25), by whom it is refused EPERM (1).
ASKED = """
import ctypes, fcntl, mmap, os, struct, sys
end, _ = os.pipe()
found = []
for command in (0x8924, 0x8924 | 7 << 32, 0x8927):
    library = ctypes.CDLL(None, use_errno=True)
    library.ioctl.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p)
    library.ioctl(end, command, None)
    found.append(ctypes.get_errno())
if sys.argv[1] == "32 bits":  # mov eax, 54; mov ecx, 0x8924; xor edx, edx; int 0x80; as ioctl(2) of i386
    code = b"\\x53\\xbb" + struct.pack("=I", end) + b"\\xb8\\x36\\0\\0\\0\\xb9\\x24\\x89\\0\\0\\x31\\xd2\\xcd\\x80\\x5b\\xc3"
    place = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    place.write(code)
    address = ctypes.addressof(ctypes.c_char.from_buffer(place))
    found.append(-ctypes.CFUNCTYPE(ctypes.c_int)(address)())
print(found)
"""


def asked(*words: str) -> str:
    """What a process is told; of a signal its number."""
    done = subprocess.run(
        [sys.executable, "-c", ASKED, *(words or ("64 bits",))], capture_output=True, text=True, check=False
    )  # fmt: skip
    return done.stdout.strip() if done.returncode == 0 else f"ended: {done.returncode}"


def test_one_ioctl_is_refused_and_no_other() -> None:
    assert asked() == "[25, 25, 25]"
    assert ioctl_filter.start(asked) == "[1, 1, 25]", "with anything in the upper half, too"
    assert asked() == "[25, 25, 25]", "who started it has no filter"


def refusal() -> int | None:
    """What this thread is told about a pipe."""
    end, other = os.pipe()
    try:
        fcntl.ioctl(end, ioctl_filter.SIOCSIFHWADDR)
    except OSError as problem:
        return problem.errno
    finally:
        os.close(end)
        os.close(other)
    return None


def test_it_takes_no_capability() -> None:
    """Who has none gives up getting more rights (no_new_privs), which the kernel asks for."""
    assert ioctl_filter.start(refusal) == errno.EPERM  # what this loads is loaded
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            if os.geteuid() == 0:
                os.setresuid(54321, 54321, 54321)
            told = (ioctl_filter.start(refusal), refusal())
            code = 0 if told == (errno.EPERM, errno.ENOTTY) else 2
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the other calls of an x86 processor")
def test_the_same_by_the_calls_of_32_bits() -> None:
    without = asked("32 bits")
    if without != "[25, 25, 25, 25]":
        pytest.skip(f"this kernel runs no programs of 32 bits: {without}")
    assert ioctl_filter.start(lambda: asked("32 bits")) == "[1, 1, 25, 1]"


def test_what_is_raised_is_raised_and_a_machine_without_a_table_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails() -> None:
        raise FileNotFoundError("no program")

    with pytest.raises(FileNotFoundError, match="no program"):
        ioctl_filter.start(fails)
    monkeypatch.setattr(ioctl_filter, "_MACHINES", {})
    assert ioctl_filter.start(os.getpid) == os.getpid()


def test_where_a_policy_refuses_filters_that_is_told_and_the_process_starts() -> None:
    """As a container's may: a filter of this process itself refuses both calls that put one on."""
    assert ioctl_filter.problem() is None
    number, ((architecture, _), *_) = ioctl_filter._MACHINES[platform.machine()]
    prctl = {"x86_64": 157, "aarch64": 167}[platform.machine()]
    steps = (
        (0x20, 0, 0, 4), (0x15, 0, 3, architecture), (0x20, 0, 0, 0), (0x15, 2, 0, number),
        (0x15, 1, 0, prctl), (0x06, 0, 0, 0x7FFF0000), (0x06, 0, 0, 0x50000 | errno.EPERM),
    )  # fmt: skip
    policy = b"".join(struct.pack("=HBBI", *step) for step in steps)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            call, _ = system_call.found()
            system_call.found("prctl")[0](38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
            held = ctypes.create_string_buffer(policy)
            assert not call(number, 1, 0, struct.pack("@HP", len(steps), ctypes.addressof(held)))
            told = (ioctl_filter.problem(), ioctl_filter.start(refusal))
            code = 0 if told == ("seccomp(2): Operation not permitted", errno.ENOTTY) else 2
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0


def test_a_machine_without_a_table_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ioctl_filter, "_MACHINES", {})
    assert ioctl_filter.problem() == f"nothing is known of system calls of {platform.machine()}"


@pytest.mark.parametrize("machine", sorted(ioctl_filter._MACHINES))
def test_a_filter_ends_in_each_branch(machine: str) -> None:
    """Each jump of a program leads inside of it, and forward."""
    _, calls = ioctl_filter._MACHINES[machine]
    code = ioctl_filter.program(calls)
    steps = len(code) // 8
    for number in range(steps):
        kind, true, false = code[8 * number], code[8 * number + 2], code[8 * number + 3]
        assert number + 1 + max(true, false) < steps or kind == 0x06
