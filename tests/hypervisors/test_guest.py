"""What hypervisors say of their guests: every word of theirs, and the one of the interface."""

from __future__ import annotations

import pytest

from hvtx.hypervisors import base
from hvtx.hypervisors.guest import (
    ASKED,
    LEFT_OUT,
    WORDS,
    described,
    guest_of,
    is_refusal,
    telling,
    uses_kvm,
)
from hvtx.model.guest import CANNOT_ANSWER, CANNOT_GO_ON, NOTES, Guest

QEMU = {
    "debug": "paused",
    "inmigrate": "paused",
    "internal-error": "internal-error",
    "io-error": "io-error",
    "paused": "paused",
    "postmigrate": "paused",
    "prelaunch": "paused",
    "finish-migrate": "paused",
    "restore-vm": "paused",
    "running": "running",
    "save-vm": "paused",
    "shutdown": "shutdown",
    "suspended": "paused",
    "watchdog": "paused",
    "guest-panicked": "panicked",
    "colo": "paused",
    "preconfig": "paused",
}
FIRECRACKER = {"Not started": "paused", "Running": "running", "Paused": "paused"}
CLOUD_HYPERVISOR = {
    "Created": "paused",
    "Running": "running",
    "Shutdown": "shutdown",
    "Paused": "paused",
    "BreakPoint": "paused",
}
TABLE = [
    (how, word, meant)
    for how, words in (
        ("qmp", QEMU),
        ("firecracker api", FIRECRACKER),
        ("cloud-hypervisor api", CLOUD_HYPERVISOR),
    )
    for word, meant in words.items()
]


@pytest.mark.parametrize(("how", "word", "meant"), TABLE)
def test_each_word_has_one_of_ours(how, word, meant):
    assert guest_of(how, word).value == meant


def test_no_word_is_known_that_is_not_in_the_table():
    assert {(how, word) for how, words in WORDS.items() for word in words} == {
        (how, word) for how, word, _ in TABLE
    }


@pytest.mark.parametrize(
    ("how", "word"),
    [("qmp", ""), ("qmp", "Running"), ("firecracker api", "running"), ("none", "running"),
     ("exec", "running"), ("cloud-hypervisor api", "Exploded")],
)  # fmt: skip
def test_what_is_not_understood_is_unknown(how, word):
    assert guest_of(how, word) is Guest.UNKNOWN


def test_the_words_of_the_interface():
    assert [guest.value for guest in Guest] == [
        "running", "paused", "internal-error", "panicked", "shutdown", "io-error", "unknown",
    ]  # fmt: skip
    assert {g.value for g in CANNOT_GO_ON} == {"internal-error", "panicked", "shutdown", "io-error"}
    assert CANNOT_GO_ON | {Guest.PAUSED} == CANNOT_ANSWER
    assert set(NOTES) == CANNOT_ANSWER


def test_who_is_powered_down_in_a_way_can_be_asked_too():
    for name, traits in base.TRAITS.items():
        if traits.power_down != "none":
            assert ASKED[traits.power_down] == traits.ready, name
            assert base.SOCKETS[traits.ready]
        else:
            assert traits.ready not in base.SOCKETS, name


def test_the_hypervisors_own_word_is_told_where_it_says_more():
    assert described(Guest.PAUSED, "suspended") == "paused (suspended)"
    assert described(Guest.PAUSED, "paused") == described(Guest.PAUSED, "Paused") == "paused"
    assert described(Guest.UNKNOWN, "") == "unknown"


REGISTERS = [f"R{n:02d}=0000000000000000 R{n:02d}=ffffffff81000000" for n in range(30)]


def test_the_line_that_says_what_happened_stands_before_the_registers():
    log = ["SeaBIOS", "KVM internal error. Suberror: 1", "emulation failure", *REGISTERS]
    assert telling(log, 10) == [
        "KVM internal error. Suberror: 1",
        "emulation failure",
        LEFT_OUT,
        *REGISTERS[-3:],
    ]


@pytest.mark.parametrize(
    "line",
    [
        "KVM internal error. Suberror: 1",
        "qemu: initialization failed",
        "Aborted (core dumped)",
        "Assertion `ret == 0' was not met",
        "Kernel panic - not syncing",
        "fatal: no memory",
        "qemu: cannot set up guest memory",
        "can't open it",
        "could not open disk",
        "unable to map",
        "Invalid parameter",
        "Permission denied",
        "Connection refused",
        "CPU model is not supported",
        "unsupported machine type",
        "No such file or directory",
        "Segfault at 0",
    ],
)
def test_each_kind_of_telling_line_is_found(line):
    assert telling([line, *REGISTERS], 10) == [line, LEFT_OUT, *REGISTERS[-3:]]


@pytest.mark.parametrize(
    ("log", "refused"),
    [
        ("qemu\nopen /dev/kvm: Permission denied", True),
        ("clone: Operation not permitted", True),
        ("open() = -1 EACCES", True),
        ("ioctl: EPERM", True),
        ("No such file or directory", False),
        ("", False),
    ],
)
def test_what_a_process_was_not_allowed_is_known(log, refused):
    assert is_refusal(log) is refused


def test_a_short_log_is_told_whole_and_a_quiet_one_by_its_end():
    assert telling(["error"] * 10, 10) == ["error"] * 10
    assert telling(REGISTERS, 10) == REGISTERS[-10:]
    last = [*REGISTERS, "qemu: could not open disk"]
    assert telling(last, 10) == last[-10:]


def test_what_is_told_is_bounded():
    log = [f"error {n}" for n in range(1000)]
    told = telling(log, 10)
    assert told == [*log[:5], LEFT_OUT, *log[-3:]]
    assert telling(log, 3) == ["error 0", "error 1", LEFT_OUT]


@pytest.mark.parametrize(
    ("argv", "used"),
    [
        (("q", "-name", "web", "-accel", "kvm"), True),
        (("q", "-accel", "kvm,thread=multi", "-m", "1"), True),
        (("q", "-name", "kvm", "-accel", "tcg"), False),
        (("q", "-accel"), False),
        ((), False),
    ],
)
def test_whether_kvm_is_used(argv, used):
    assert uses_kvm(argv) is used
