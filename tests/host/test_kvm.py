"""The accelerator: what counts as a proof, how a failure is told, what is kept."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import shutil
from pathlib import Path
from types import ModuleType

import pytest

from hvtx.host import kvm, probe_code, probe_guest
from hvtx.host.kvm import Answer, Question
from hvtx.host.program import Ended

TOP = Path(__file__).parents[2]
PANIC = "[    3.266202] Kernel panic - not syncing: "


def script(name: str) -> ModuleType:
    """A program of scripts/ as a module."""
    loader = importlib.machinery.SourceFileLoader(
        name.replace("-", "_"), str(TOP / "scripts" / name)
    )
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


# --- proof


@pytest.mark.parametrize(
    ("said", "proves"),
    [
        (f"{PANIC}VFS: Unable to mount root fs on unknown-block(0,0)", True),
        (f"quiet\r\n{PANIC}VFS: Unable to mount root fs via NFS.\r\n", True),
        (f"{PANIC}No working init found.  Try passing init= option to kernel.", True),
        (f"{PANIC}Requested init /sbin/x failed (error -2).", True),
        (f"{PANIC}Attempted to kill the idle task!", False),
        (f"{PANIC}Fatal exception in interrupt: VFS: Unable to mount root fs", False),
        ("VFS: Unable to mount root fs", False),
        ("Probing EDD (edd=off to disable)... ok", False),
        ("", False),
    ],
)
def test_only_a_panic_for_want_of_a_root_proves_that_linux_ran(said: str, proves: bool) -> None:
    assert kvm.lacks_root(said) is proves


def test_a_linux_kernel_is_known_by_its_header(tmp_path: Path) -> None:
    path = tmp_path / "kernel"
    for content, linux in (
        (bytes(0x202) + b"HdrS" + bytes(100), True),
        (bytes(0x38) + b"ARM\x64" + bytes(100), True),
        (bytes(0x201) + b"HdrS" + bytes(100), False),
        (b"", False),
    ):
        path.write_bytes(content)
        assert kvm.is_linux(str(path)) is linux
    assert kvm.is_linux(str(tmp_path / "absent")) is False


def test_how_a_try_failed_is_told_in_a_line() -> None:
    abort = (
        "qemu-system-x86_64: error: failed to set MSR 0x10a to 0x69\nqemu: Assertion `x' failed."
    )
    assert kvm.told(Ended(-6, f"BIOS\n{abort}")) == f"QEMU ended with status -6: {abort[:58]}"
    broken = "noise: error\nKVM internal error. Suberror: 1\nRAX=0000"
    assert kvm.told(Ended(None, broken)) == "QEMU stopped it: KVM internal error. Suberror: 1"
    assert kvm.told(Ended(None, "BIOS")) == "not at its end within 3 s"
    assert kvm.told(Ended(0, "")) == "QEMU ended with status 0"
    assert "\x1b" not in kvm.told(Ended(1, "\x1b[31merror\x1b[0m"))
    assert len(kvm.told(Ended(1, "error" * 1000))) < 300


def test_the_machine_is_that_of_the_vms(monkeypatch: pytest.MonkeyPatch) -> None:
    argv = kvm.arguments("/q", "x86_64", "kvm")
    for pair in (("-accel", "kvm"), ("-cpu", "host"), ("-machine", "q35")):
        assert argv[argv.index(pair[0]) + 1] == pair[1]
    assert "-no-reboot" in argv
    arm = kvm.arguments("/q", "aarch64", "tcg")
    assert arm[arm.index("-machine") + 1] == "virt"
    assert arm[arm.index("-cpu") + 1] == "max"


# --- the guest of ours


def test_the_number_is_in_the_image_and_in_the_answer() -> None:
    for machine, offset in (("x86_64", 500), ("aarch64", 8)):
        one, first = probe_guest.image(machine, bytes(8))
        two, second = probe_guest.image(machine, b"\1" + bytes(7))
        assert [n for n in range(len(one)) if one[n] != two[n]] == [offset]
        assert first != second
        assert len(one) == 1 << 20
    assert probe_guest.image("x86_64", bytes(8))[0][510:512] == b"\x55\xaa"
    number = 1000 * 0x9E3779B1
    letters = probe_guest.token(0)
    assert sum((ord(c) - ord("a")) << 4 * n for n, c in enumerate(letters)) == number
    assert probe_guest.status("x86_64") != 85  # what QEMU ended with when less was proven


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_code_is_what_its_source_says(machine: str) -> None:
    if shutil.which(f"{machine}-linux-gnu-as") is None:
        pytest.skip(f"needs binutils for {machine}")
    made = script("make-probe").assemble(machine)
    assert made == {"x86_64": probe_code.X86_64, "aarch64": probe_code.AARCH64}[machine]
    assert len(made) <= 512 * 8  # what the boot sector reads


# --- what is kept


def answers(directory: Path, monkeypatch: pytest.MonkeyPatch) -> list[Question]:
    """Questions that are asked instead of trying them; every second answer is no."""
    asked: list[Question] = []

    def probe(question: Question, machine: str, accelerator: str, user: object) -> Answer:
        assert (machine, accelerator) == ("x86_64", "kvm")
        asked.append(question)
        return Answer("kvm" if len(asked) % 2 else "tcg", f"answer {len(asked)}")

    monkeypatch.delenv(kvm.VARIABLE, raising=False)
    monkeypatch.setattr(kvm, "DEVICE", "/dev/null")
    monkeypatch.setattr(kvm, "probe", probe)
    return asked


def test_each_kernel_and_each_qemu_is_tried_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = answers(tmp_path, monkeypatch)
    kernel = tmp_path / "a kernel"
    kernel.write_text("1")
    for _ in range(2):
        assert kvm.choose("/bin/sh", "x86_64", str(tmp_path)).reason == "answer 1"
        assert kvm.choose("/bin/sh", "x86_64", str(tmp_path), str(kernel)).reason == "answer 2"
    kernel.write_text("12")
    assert kvm.choose("/bin/sh", "x86_64", str(tmp_path), str(kernel)).reason == "answer 3"
    assert kvm.choose("/bin/true", "x86_64", str(tmp_path)).reason == "answer 4"
    assert kvm.choose("/bin/sh", "x86_64", str(tmp_path)) == Answer("kvm", "answer 1")
    assert len(asked) == 4
    gone = kvm.choose("/nonexistent/qemu", "x86_64", str(tmp_path))
    assert (gone.accelerator, gone.reason.partition(":")[0]) == ("tcg", kvm.UNTRIED)


def test_what_is_kept_is_no_more_than_this_boots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = answers(tmp_path, monkeypatch)
    kernel = tmp_path / "kernel"
    for size in range(70):
        kernel.write_bytes(bytes(size))
        kvm.choose("/bin/sh", "x86_64", str(tmp_path), str(kernel))
    assert len(asked) == 70
    assert len(kvm.all_kept(str(tmp_path))) == 6
    kept = tmp_path / "accel"
    strange = json.dumps([["b", ["/q", 1, 1], None], ["xen", "why", ""]])
    kept.write_text(f"\n{strange}\n[[1,2],[3]]\n{{}}\n7\n\xff\n")
    assert kvm.all_kept(str(tmp_path)) == []
    kvm.choose("/bin/sh", "x86_64", str(tmp_path))
    assert len(kvm.all_kept(str(tmp_path))) == 1
    old = kept.read_text().splitlines()[-1].replace(asked[-1].boot_id, "another boot")
    kept.write_text(old + "\n")
    kvm.choose("/bin/sh", "x86_64", str(tmp_path))
    assert [q.boot_id for q, _ in kvm.all_kept(str(tmp_path))] == [asked[-1].boot_id]


def test_no_kvm_is_not_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answers(tmp_path, monkeypatch)
    device = tmp_path / "kvm"
    monkeypatch.setattr(kvm, "DEVICE", str(device))
    assert kvm.choose("/bin/sh", "x86_64", str(tmp_path)) == Answer("tcg", kvm.NO_DEVICE)
    device.touch()
    monkeypatch.setattr(kvm.os, "access", lambda *_, **__: False)
    assert kvm.choose("/bin/sh", "x86_64", str(tmp_path)) == Answer("tcg", kvm.NOT_ALLOWED)
    for wanted in ("kvm", "tcg"):
        monkeypatch.setenv(kvm.VARIABLE, wanted)
        decided = Answer(wanted, f"HVTX_QEMU_ACCEL={wanted} decides")
        assert kvm.choose("/bin/sh", "x86_64", str(tmp_path)) == decided
    assert asked == []


# --- the demo's words about a log


def test_the_first_lines_of_an_error_are_shown_and_the_last_of_the_log() -> None:
    demo = script("demo.py")
    log = ["SeaBIOS", "KVM internal error. Suberror: 1"]
    log += [f"R{n}=00" for n in range(20)] + ["", "\x1b[31mthe end\x1b[0m"]
    last = [f"R{n}=00" for n in range(13, 20)] + ["the end"]
    assert demo.telling("\n".join(log)) == ["…", log[1], "…", *last]
    assert demo.telling("one\ntwo") == ["one", "two"]
    assert demo.telling("") == []


# --- a QEMU that hangs


def _fake(path: Path, behaviour: str) -> Path:
    """A QEMU that writes down its arguments and behaves so; its calls."""
    calls = path.with_name("calls")
    path.write_text(f'#!/bin/sh\necho "$*" >>{calls}\n{behaviour}\n')
    path.chmod(0o755)
    return calls


def test_one_that_took_all_the_time_is_not_asked_its_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ran, else it would have said so long before: nothing is waited for twice."""
    monkeypatch.setattr(kvm, "SECONDS", 0.4)
    calls = _fake(tmp_path / "qemu", "exec sleep 20")
    answer = kvm.probe(kvm.ask(str(tmp_path / "qemu"), None), "x86_64", "tcg")
    assert (answer.accelerator, answer.reason) == ("tcg", kvm.NO_LINUX)
    assert [line for line in calls.read_text().splitlines() if "--version" in line] == []


def test_the_version_of_one_that_failed_is_waited_for_no_longer_than_the_guest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both together are bounded by the probe's own time."""
    given: list[float] = []

    def run(argv: list[str], seconds: float, **more: object) -> Ended:
        given.append(seconds)
        return Ended(None if "--version" in argv else 1, "")

    monkeypatch.setattr(kvm.program, "run", run)
    _fake(tmp_path / "qemu", "exit 1")
    kvm.probe(kvm.ask(str(tmp_path / "qemu"), None), "x86_64", "tcg")
    assert len(given) == 2
    assert given[0] == kvm.SECONDS
    assert 0 < given[1] < kvm.SECONDS


@pytest.mark.parametrize("ends", [True, False])
def test_a_guest_that_answered_ran_where_nobody_knows_how_its_qemu_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: bool
) -> None:
    """A program that uses the library may wait for all of its children itself."""
    _fake(tmp_path / "qemu", "exit 0")
    tokens: list[str] = []
    image = probe_guest.image

    def told(machine: str, nonce: bytes) -> tuple[bytes, str]:
        made = image(machine, nonce)
        tokens.append(made[1])
        return made

    def run(argv: list[str], seconds: float, **more: object) -> Ended:
        said = "QEMU emulator version 7" if "--version" in argv else tokens[-1] if ends else "BIOS"
        return Ended(kvm.program.UNTOLD, said)

    monkeypatch.setattr(probe_guest, "image", told)
    monkeypatch.setattr(kvm.program, "run", run)
    found = kvm.probe(kvm.ask(str(tmp_path / "qemu"), None), "x86_64", "kvm")
    assert found.accelerator == ("kvm" if ends else "tcg")
