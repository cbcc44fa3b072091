"""Whether KVM is taken is decided by what really runs: QEMUs that claim more than they can.

Each is a program that stands before the real one on PATH and passes everything but KVM on to it,
under emulation. A KVM that works is played by emulation too: the guest of the probe runs there.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hvtx.host import kvm, probe_code, probe_guest
from integration import lab
from integration.lab import witness
from integration.lab.processes import is_alive
from integration.lab.program import Forked, Program, preload
from integration.lab.waiting import until

QEMU = shutil.which("qemu-system-x86_64")
QEMU_ARM = shutil.which("qemu-system-aarch64")
pytestmark = pytest.mark.skipif(
    QEMU is None or os.uname().machine != "x86_64", reason="needs qemu-system-x86_64"
)
TOP = Path(__file__).resolve().parents[2]
SAYS_NO = "KVM is here but does not run Linux"

# What each does with `-accel kvm`; the first two pass a probe that only looks at isa-debug-exit.
HANGS = """
case " $* " in
*" -accel kvm "*isa-debug-exit*) exit 85 ;;
*" -accel kvm "*) exec sleep 600 ;;
esac
"""
INTERNAL_ERROR = """
case " $* " in
*" -accel kvm "*isa-debug-exit*) exit 85 ;;
*" -accel kvm "*) echo 'KVM internal error. Suberror: 1' >&2; exec sleep 600 ;;
esac
"""
REFUSES = """
case " $* " in
*" -accel kvm "*) echo 'qemu: error: failed to set MSR 0x10a to 0x69' >&2; exit 134 ;;
esac
"""
WORKS = """
arguments=
for word; do
    case $word in kvm) word=tcg ;; host) word=max ;; esac
    arguments="$arguments '$word'"
done
eval "set -- $arguments"
"""


class Fake:
    """A QEMU that stands before the real one, and writes down with which accelerator it ran."""

    def __init__(self, directory: Path, behaviour: str, monkeypatch: pytest.MonkeyPatch) -> None:
        directory.mkdir()
        self.calls = lab.open_place() / "calls"
        self.calls.touch()
        self.calls.chmod(0o666)
        self.path = directory / "qemu-system-x86_64"
        note = f'echo "$$ $*" >>{self.calls}'
        self.path.write_text(f'#!/bin/sh\n{note}\n{behaviour}\nexec {QEMU} "$@"\n')
        self.path.chmod(0o755)
        monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")

    def lines(self) -> list[str]:
        return self.calls.read_text().splitlines() if self.calls.exists() else []

    def probes(self) -> int:
        """How often KVM was tried: a VM has a name, the probe has none."""
        return sum(" -accel kvm " in line and " -name " not in line for line in self.lines())


@pytest.fixture
def hvtx(monkeypatch: pytest.MonkeyPatch) -> Iterator[Program]:
    """The program, on a host that has something for a /dev/kvm; what it leaves is ended."""
    preload()
    monkeypatch.delenv(kvm.VARIABLE, raising=False)
    monkeypatch.setattr(kvm, "DEVICE", "/dev/null")
    program = Forked()
    yield program
    for vm in program("vm", "ls", "--json").json()["vms"]:
        program("vm", "stop", vm["name"], "--force")


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """Nothing boots from it: the firmware says so and waits."""
    path = tmp_path / "disk.raw"
    path.write_bytes(bytes(1 << 20))
    return path


def network(hvtx: Program) -> None:
    hvtx("network", "create", "net", "--subnet", "10.77.0.0/24")


def kept_in(directory: Path) -> Path:
    """The file of answers of the one store there (its run directory is one of the run directory)."""
    (found,) = directory.joinpath("run").rglob("accel")
    return found


def chosen(document: dict[str, Any]) -> tuple[str, str]:
    return document["accelerator"], document["accelerator_reason"]


def argv_of(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/cmdline").read_text().split("\0")


# --- real guests, whatever KVM claims


@pytest.mark.parametrize(
    ("behaviour", "device", "why"),
    [
        (HANGS, "/dev/null", SAYS_NO),
        (INTERNAL_ERROR, "/dev/null", SAYS_NO),
        (REFUSES, "/dev/null", SAYS_NO),
        (HANGS, "/nonexistent", "there is no /nonexistent"),
    ],
    ids=["hangs", "internal error", "refuses", "no KVM"],
)
def test_a_real_guest_runs_and_it_is_told_with_what_and_why(
    hvtx: Program,
    guest_files: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    behaviour: str,
    device: str,
    why: str,
) -> None:
    fake = Fake(tmp_path / "bin", behaviour, monkeypatch)
    monkeypatch.setattr(kvm, "DEVICE", device)
    monkeypatch.setattr(kvm, "NO_DEVICE", f"there is no {device}")
    network(hvtx)
    boot = ("--kernel", str(guest_files / "vmlinuz"), "--initrd", str(guest_files / "initrd.img"))
    ran = hvtx("vm", "run", "web", "--network", "net", *boot, "--append", "quiet")
    assert f"accelerator tcg: {why}\n" in ran.out
    vm = hvtx.vm("web")
    assert chosen(vm) == ("tcg", why)
    assert f"tcg: {why}\n" in hvtx("vm", "show", "web").out
    argv = argv_of(vm["pid"])
    assert argv[argv.index("-accel") + 1] == "tcg"
    assert fake.probes() == (0 if device == "/nonexistent" else 1)
    until("served", lambda: "web: serving on 10.77.0.2" in hvtx("vm", "logs", "web").out)
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open("http://10.77.0.2/", timeout=30) as page:
        assert b"this is web" in page.read()
    stopped = hvtx("vm", "stop", "web", "--json").json()
    assert chosen(stopped) == (None, None)


def test_a_kvm_that_boots_the_kernel_is_taken(
    hvtx: Program, guest_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The VM's own kernel, to its panic for want of a root: emulation needs longer than 3 s."""
    fake = Fake(tmp_path / "bin", WORKS, monkeypatch)
    monkeypatch.setattr(kvm, "SECONDS", 400.0)
    network(hvtx)
    boot = ("--network", "net", "--kernel", str(guest_files / "vmlinuz"))
    started = hvtx("vm", "run", "web", *boot, "--json").json()
    assert chosen(started) == ("kvm", "KVM runs Linux")
    assert "panic=-1 rdinit=" in fake.lines()[0]
    assert fake.probes() == 1
    assert chosen(hvtx("vm", "run", "two", *boot, "--json").json()) == ("kvm", "KVM runs Linux")
    assert fake.probes() == 1
    running = Path("/proc", str(started["pid"]), "cmdline").read_text()
    assert "\0-accel\0tcg\0" in running  # the fake's doing: it was told kvm
    assert " -name web " in fake.lines()[1]
    assert " -accel kvm " in fake.lines()[1]


def test_a_kernel_that_comes_to_no_panic_is_none_that_runs(
    hvtx: Program, disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """KVM works; that it runs this kernel, which is no Linux, nobody has seen."""
    Fake(tmp_path / "bin", WORKS, monkeypatch)
    monkeypatch.setattr(kvm, "SECONDS", 1.0)
    network(hvtx)
    kernel = tmp_path / "kernel"
    kernel.write_bytes(bytes(4096))
    hvtx("vm", "create", "web", "--network", "net", "--kernel", str(kernel), "--disk", str(disk))
    ran = hvtx("vm", "start", "web", "--json", code=None)
    if ran.code == 0:  # it depends on QEMU's version whether such a file is loaded at all
        assert chosen(ran.json()) == ("tcg", kvm.NO_KERNEL)
    assert kvm.NO_KERNEL in kept_in(tmp_path).read_text()


# --- once, and what is kept


def test_a_guest_of_ours_decides_where_a_vm_has_no_kernel(
    hvtx: Program, disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once for a QEMU and a boot; anything else is another question."""
    monkeypatch.setattr(kvm, "SECONDS", 250.0)
    fake = Fake(tmp_path / "bin", WORKS, monkeypatch)
    network(hvtx)
    hvtx("vm", "create", "web", "--network", "net", "--disk", str(disk))

    def start() -> tuple[str, str]:
        found = chosen(hvtx("vm", "start", "web", "--json").json())
        hvtx("vm", "stop", "web", "--force")
        return found

    assert start() == ("kvm", "KVM runs 64-bit guests")
    assert fake.probes() == 1
    assert start() == ("kvm", "KVM runs 64-bit guests")
    assert fake.probes() == 1
    with fake.path.open("a") as program:
        program.write("# another QEMU\n")
    start()
    assert fake.probes() == 2
    kept = kept_in(tmp_path)
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    kept.write_text(kept.read_text().replace(boot_id, "0" * 36))
    start()
    assert fake.probes() == 3
    assert len(kept.read_text().splitlines()) == 1  # those of the other boot are gone
    kept.write_text("rubbish\n[1]\n" + kept.read_text()[:40])
    start()
    assert fake.probes() == 4
    assert kept.stat().st_mode & 0o777 == 0o600


def test_the_variable_decides_unseen(
    hvtx: Program, disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = Fake(tmp_path / "bin", WORKS, monkeypatch)
    network(hvtx)
    hvtx("vm", "create", "web", "--network", "net", "--disk", str(disk))
    for wanted in ("kvm", "tcg"):
        started = hvtx("vm", "start", "web", "--json", HVTX_QEMU_ACCEL=wanted).json()
        assert chosen(started) == (wanted, f"HVTX_QEMU_ACCEL={wanted} decides")
        # What it was started with, not what would be decided now.
        other = {"kvm": "tcg", "tcg": "kvm"}[wanted]
        assert (
            chosen(hvtx("vm", "show", "web", "--json", HVTX_QEMU_ACCEL=other).json())[0] == wanted
        )
        hvtx("vm", "stop", "web", "--force")
    assert fake.probes() == 0
    assert list(tmp_path.rglob("accel")) == []


def test_others_than_qemu_have_no_accelerator(hvtx: Program) -> None:
    network(hvtx)
    ran = hvtx("vm", "run", "web", "--network", "net", "--", "sleep", "600")
    assert "accelerator" not in ran.out
    assert chosen(hvtx.vm("web")) == (None, None)
    assert "accelerator" not in hvtx("vm", "show", "web").out


def test_starts_at_the_same_time_try_kvm_once(
    hvtx: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kvm, "SECONDS", 250.0)
    fake = Fake(tmp_path / "bin", WORKS, monkeypatch)
    children = []
    for _ in range(4):
        pid = os.fork()
        if pid == 0:
            answer = kvm.choose(str(fake.path), "x86_64", str(tmp_path))
            os._exit(0 if answer.accelerator == "kvm" else 1)
        children.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * 4
    assert fake.probes() == 1


def test_whoever_cannot_wait_any_longer_takes_emulation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another start holds the question for longer than it may: no answer of this one's is kept."""
    import fcntl

    monkeypatch.delenv(kvm.VARIABLE, raising=False)
    monkeypatch.setattr(kvm, "DEVICE", "/dev/null")
    monkeypatch.setattr(kvm, "SECONDS", 0.2)
    with (tmp_path / "accel").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        answer = kvm.choose("/bin/true", "x86_64", str(tmp_path))
    assert answer == kvm.Answer("tcg", kvm.BUSY)
    assert (tmp_path / "accel").read_text() == ""


def test_a_host_that_cannot_be_asked_gets_emulation(
    hvtx: Program, disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No descriptor, no memory: the start goes on, and says that KVM was not tried."""
    Fake(tmp_path / "bin", WORKS, monkeypatch)

    def refuse(*_: object) -> bytes:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(kvm.os, "urandom", refuse)
    answer = kvm.choose(str(tmp_path / "bin/qemu-system-x86_64"), "x86_64", str(tmp_path))
    assert answer == kvm.Answer("tcg", "KVM could not be tried: Too many open files")
    assert kvm.all_kept(str(tmp_path)) == []


# --- the guest of ours


@pytest.mark.parametrize(
    ("machine", "binary"), [("x86_64", QEMU), ("aarch64", QEMU_ARM)], ids=["x86_64", "aarch64"]
)
def test_the_guest_answers_and_a_damaged_one_does_not(
    monkeypatch: pytest.MonkeyPatch, machine: str, binary: str | None
) -> None:
    if binary is None:
        pytest.skip(f"needs qemu-system-{machine}")
    monkeypatch.setattr(kvm, "SECONDS", 250.0)
    question = kvm.ask(binary, None)
    assert kvm.probe(question, machine, "tcg").accelerator == "kvm"
    # The same guest with another answer than the one that is expected: it must be the number's.
    monkeypatch.setattr(probe_guest, "token", lambda number: "a" * 16)
    assert kvm.probe(question, machine, "tcg").reason == SAYS_NO


@pytest.mark.parametrize("stage", range(2, 9))
def test_each_stage_of_the_guest_can_fail(monkeypatch: pytest.MonkeyPatch, stage: int) -> None:
    """``mov bl, stage`` and what follows: with an undefined instruction there, that stage is told."""
    begin = bytes((0xB3, stage))
    place = [n for n in range(512, 1900) if probe_code.X86_64[n : n + 2] == begin]
    assert len(place) == 1
    code = bytearray(probe_code.X86_64)
    code[place[0] + 2 : place[0] + 4] = b"\x0f\x0b"
    monkeypatch.setattr(probe_code, "X86_64", bytes(code))
    monkeypatch.setattr(kvm, "SECONDS", 250.0)
    answer = kvm.probe(kvm.ask(str(QEMU), None), "x86_64", "tcg")
    status = 2 * (stage | 0x80) + 1 & 0xFF
    assert answer == kvm.Answer("tcg", SAYS_NO, f"a small guest: QEMU ended with status {status}")


def test_a_guest_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe_code, "X86_64", (b"\xf4" * 510 + b"\x55\xaa"))
    monkeypatch.setattr(kvm, "SECONDS", 1.0)
    answer = kvm.probe(kvm.ask(str(QEMU), None), "x86_64", "tcg")
    assert answer == kvm.Answer("tcg", SAYS_NO, "a small guest: not at its end within 1 s")


def strike_when_spawned(how: signal.Signals, fake: Fake) -> None:
    """Have this process send itself a signal once it has spawned a probe that runs."""
    spawn = os.posix_spawn

    def struck(path: str, words: list[str], *others: Any, **options: Any) -> int:
        pid = spawn(path, words, *others, **options)
        if "-accel" in words:
            until("tried", fake.lines)
            os.kill(os.getpid(), how)
        return pid

    os.posix_spawn = struck  # type: ignore[assignment]  # of a forked child, which ends


@pytest.mark.parametrize("at_once", [True, False], ids=["spawned", "awaited"])
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=lambda how: how.name)
def test_a_start_that_is_killed_leaves_no_guest_of_the_probe(
    hvtx: Program,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    how: signal.Signals,
    at_once: bool,
) -> None:
    """Ctrl-C ends it with the command, even as it is spawned; after SIGKILL, timeout(1) does."""
    monkeypatch.setattr(kvm, "SECONDS", 2.0 if how is signal.SIGKILL else 250.0)
    fake = Fake(tmp_path / "bin", HANGS.replace("exit 85", "exec sleep 600"), monkeypatch)
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if at_once:
            strike_when_spawned(how, fake)
        try:
            kvm.choose(str(fake.path), "x86_64", str(tmp_path))
        finally:
            os._exit(0)
    until("tried", fake.lines)
    probe = int(fake.lines()[0].split()[0])
    if not at_once:  # it waits for the probe
        stat = Path(f"/proc/{pid}/stat")
        until("asleep", lambda: stat.read_text().rpartition(")")[2].split()[0] == "S")
        os.kill(pid, how)
    os.waitpid(pid, 0)
    until("ended", lambda: not is_alive(probe))


# --- doctor


def finding(hvtx: Program, code: int | None = 0, **environment: str) -> tuple[str, str, str]:
    with witness.unchanged():
        document = hvtx("doctor", "--json", code=code, **environment).json()
    found = next(f for f in document["findings"] if f["check"] == "kvm")
    assert found["level"] == "ok" or found["hint"]
    return found["level"], found["message"], json.dumps(found["evidence"])


def test_doctor_says_what_it_saw_or_what_is_kept(
    hvtx: Program, disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kvm, "SECONDS", 250.0)
    fake = Fake(tmp_path / "bin", REFUSES, monkeypatch)
    network(hvtx)
    level, message, evidence = finding(hvtx)
    assert (level, message.startswith(SAYS_NO)) == ("warning", True)
    assert "failed to set MSR" in evidence
    assert fake.probes() == 1
    hvtx("vm", "run", "web", "--network", "net", "--disk", str(disk))
    assert fake.probes() == 2
    told = hvtx("doctor").out.partition(SAYS_NO)[2].partition("fix: ")[2].splitlines()[0]
    assert (told.startswith("they run, only slower"), "may hang" in told) == (True, True)
    assert finding(hvtx)[0] == "warning"
    assert fake.probes() == 2  # what the start found out is kept
    level, message, _ = finding(hvtx, code=1, HVTX_QEMU_ACCEL="kvm")
    assert (level, message) == ("error", f"HVTX_QEMU_ACCEL=kvm decides, and {SAYS_NO}")
    level, message, _ = finding(hvtx, HVTX_QEMU_ACCEL="tcg")
    assert (level, message.startswith("HVTX_QEMU_ACCEL=tcg decides")) == ("ok", True)
    level, message, _ = finding(hvtx, code=1, HVTX_QEMU_ACCEL="xen")
    assert (level, "'xen'" in message) == ("error", True)


def test_doctor_where_kvm_works_and_where_there_is_none(
    hvtx: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kvm, "SECONDS", 250.0)
    Fake(tmp_path / "bin", WORKS, monkeypatch)
    assert finding(hvtx)[:2] == ("ok", "KVM runs 64-bit guests")
    assert finding(hvtx, HVTX_QEMU_ACCEL="kvm")[:2] == ("ok", "KVM runs 64-bit guests")
    level, message, _ = finding(hvtx, code=1, PATH="/nonexistent")
    assert (level, "cannot test whether it runs guests" in message) == ("warning", True)
    monkeypatch.setattr(kvm, "DEVICE", "/nonexistent")
    assert finding(hvtx)[:2] == (
        "warning",
        "there is no /dev/kvm: qemu guests run emulated, ten times slower",
    )
    assert finding(hvtx, code=1, HVTX_QEMU_ACCEL="kvm")[0] == "error"


@pytest.mark.parametrize("device", ["/dev/null", "/nonexistent"])
def test_doctor_where_qemu_itself_does_not_run(
    hvtx: Program, disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    """Of KVM nothing was learnt then, so no start keeps an answer, and doctor blames none."""
    behaviour = "echo 'qemu: libabsent.so.7: cannot open' >&2; exit 3"
    fake = Fake(tmp_path / "bin", behaviour, monkeypatch)
    monkeypatch.setattr(kvm, "DEVICE", device)
    network(hvtx)
    blamed = f"QEMU does not run: {fake.path} --version ended with status 3:"
    for _ in range(2):
        level, message, _ = finding(hvtx, code=1)
        assert (level, message) == ("error", f"{blamed} qemu: libabsent.so.7: cannot open")
        assert finding(hvtx, code=1, HVTX_QEMU_ACCEL="tcg")[1] == message
        ran = hvtx("vm", "run", "web", "--network", "net", "--disk", str(disk), code=6)
        assert SAYS_NO not in ran.err
    assert kvm.all_kept(str(next(Path(os.environ["HVTX_RUN_DIR"]).iterdir()))) == []
    fake.path.write_text(f'#!/bin/sh\nexec {QEMU} "$@"\n')
    assert "does not run:" not in finding(hvtx)[1]


def test_the_probe_writes_nothing(
    hvtx: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted(tmp_path.rglob("*"))
    kvm.probe(kvm.ask(str(QEMU), None), "x86_64", "tcg")
    assert sorted(tmp_path.rglob("*")) == before
    assert lab.run("ip", "-br", "link").count("\n") <= 2
