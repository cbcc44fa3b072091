"""scripts/demo: what it says of itself, and that it ends well whatever KVM does."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from integration.commands.test_accelerator import HANGS, Fake

TOP = Path(__file__).resolve().parents[2]
SHELL = "/bin/bash"
INSIDE = """
mount -t tmpfs tmpfs /run && mkdir -p /run/lock /run/demo || exit 1
[ ! -e /dev/kvm ] || mount --bind /dev/null /dev/kvm || exit 1
ip link set lo up
"$@"
exit $?
"""
# It says what a kernel says that lacks a root, and is then another QEMU than it seemed.
LIES = """
case " $* " in
*" -accel kvm "*rdinit=/absent*)
    echo '[    0.1] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)'
    exit 0 ;;
*" -accel kvm "*)
    arguments=
    for word; do
        case $word in
        kvm) word=tcg ;;
        host) word=max ;;
        *panic=10*) word="${word%panic=10*}panic=-1 rdinit=/absent${word#*panic=10}" ;;
        esac
        arguments="$arguments '$word'"
    done
    eval "set -- $arguments"
    echo 'KVM internal error. Suberror: 1' >&2
    FATE ;;
esac
"""


@pytest.mark.parametrize(
    ("words", "code"), [(["--help"], 0), (["-h"], 0), (["--hlep"], 2), (["red"], 2)]
)
def test_the_demo_says_how_it_is_used_before_it_does_anything(
    tmp_path: Path, words: list[str], code: int
) -> None:
    """No program but cat is there: nothing can be installed, looked up or made."""
    (tmp_path / "cat").symlink_to(shutil.which("cat") or "")
    done = subprocess.run(
        [SHELL, str(TOP / "scripts/demo"), *words],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == code
    assert (done.stdout if code == 0 else done.stderr).count("usage: sudo scripts/demo") == 1
    assert "HVTX_QEMU_ACCEL" in done.stdout + done.stderr
    assert (code == 0) == (done.stderr == "")
    assert code == 0 or f"error: unknown word: {words[0]}\n" in done.stderr


PLAYED = """#!/bin/sh
# in the place of the checkout's Python: the first time as where KVM lets a guest down
echo "played with ${HVTX_QEMU_ACCEL:-what is there}"
[ "${HVTX_QEMU_ACCEL:-}" = tcg ] && exit "$(cat "${0%/*}/second")"
exit "$(cat "${0%/*}/first")"
"""


@pytest.mark.parametrize(
    ("first", "second", "code", "plays"),
    [(0, 1, 0, 1), (1, 0, 1, 1), (3, 0, 0, 2), (3, 1, 1, 2), (3, 3, 3, 2)],
)
def test_a_guest_that_kvm_lets_down_is_tried_once_more_without_kvm(
    tmp_path: Path, first: int, second: int, code: int, plays: int
) -> None:
    """Once, and it says so; the exit code is that of the last one. Nothing is installed here."""
    checkout = tmp_path / "checkout"
    (checkout / "scripts/lib").mkdir(parents=True)
    (checkout / "scripts/guest").mkdir()
    (checkout / ".venv/bin").mkdir(parents=True)
    shutil.copy(TOP / "scripts/demo", checkout / "scripts/demo")
    prepare = (TOP / "scripts/lib/prepare.sh").read_text()
    nothing = "install_packages() { :; }\ninstall_python_packages() { :; }\n"
    (checkout / "scripts/lib/prepare.sh").write_text(prepare + nothing)
    for program, text in (
        (checkout / "scripts/guest/prepare", "#!/bin/sh\n"),
        (checkout / ".venv/bin/python", PLAYED),
    ):
        program.write_text(text)
        program.chmod(0o755)
    (checkout / ".venv/bin/first").write_text(str(first))
    (checkout / ".venv/bin/second").write_text(str(second))
    environment = {name: text for name, text in os.environ.items() if name != "HVTX_QEMU_ACCEL"}
    done = subprocess.run(
        [SHELL, str(checkout / "scripts/demo")],
        env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        timeout=120,
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    played = [line for line in done.stdout.splitlines() if line.startswith("played with ")]
    assert played == ["played with what is there", "played with tcg"][:plays]
    told = "== The same again without KVM: HVTX_QEMU_ACCEL=tcg"
    assert done.stdout.count(told) == plays - 1


def demo(guest: Path) -> subprocess.CompletedProcess[str]:
    """The demo in namespaces as its script makes them, with this Python's hvtx."""
    environment = {
        **os.environ,
        "HVTX_STATE_DIR": "/run/demo/state",
        "HVTX_RUN_DIR": "/run/demo/run",
        "HVTX_CONFIG": "/dev/null",
        "XTABLES_LOCKFILE": "/run/demo/xtables.lock",
        "PATH": f"{os.environ['PATH']}:{Path(sys.executable).parent}",
        "PYTHONPATH": str(TOP),
    }
    environment.pop("HVTX_QEMU_ACCEL", None)
    return subprocess.run(
        ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc",
         "sh", "-c", INSIDE, "demo", sys.executable, str(TOP / "scripts/demo.py"), str(guest)],
        env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        timeout=900,
    )  # fmt: skip


@pytest.fixture
def guest(guest_files: Path, tmp_path: Path) -> Path:
    """The demo's guest, in a directory whose neighbours a test may see come."""
    made = tmp_path / "cache" / "guest"
    made.mkdir(parents=True)
    for name in ("vmlinuz", "initrd.img", "busybox"):
        (made / name).symlink_to(guest_files / name)
    return made


needs_qemu = pytest.mark.skipif(
    shutil.which("qemu-system-x86_64") is None or os.uname().machine != "x86_64",
    reason="needs qemu-system-x86_64",
)


@needs_qemu
@pytest.mark.timeout(900)
def test_the_demo_ends_well_with_a_kvm_that_only_seems_to_work(
    guest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Firmware and a boot sector would run there, and Linux would stop without a word."""
    fake = Fake(tmp_path / "bin", HANGS, monkeypatch)
    done = demo(guest)
    assert done.returncode == 0, done.stdout + done.stderr
    why = "KVM is here but does not run Linux" if os.path.exists("/dev/kvm") else "there is no"
    assert done.stdout.count(f"  accelerator tcg: {why}") == 3
    assert fake.probes() == (1 if os.path.exists("/dev/kvm") else 0)
    assert "What this showed" in done.stdout


needs_device = pytest.mark.skipif(
    not os.path.exists("/dev/kvm"), reason="needs a /dev/kvm that can be covered"
)


@needs_qemu
@needs_device
def test_a_guest_that_kvm_lets_down_is_told_with_its_log(
    guest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once, not after the whole wait; the exit status asks for another try without KVM.

    Its QEMU runs, until its kernel panics and ends it: long after the start is over.
    """
    qemu = shutil.which("qemu-system-x86_64")
    Fake(tmp_path / "bin", LIES.replace("FATE", f'exec {qemu} -no-reboot "$@"'), monkeypatch)
    done = demo(guest)
    assert done.returncode == 3, done.stdout + done.stderr
    assert "  accelerator kvm: KVM runs Linux\n" in done.stdout
    assert "(waiting for red's page, up to 90 s)" in done.stdout
    assert "not within" not in done.stdout
    told = done.stdout.partition("✗ not so: red's page: VM red is crashed\n")[2]
    log = tmp_path / "cache/demo/red.log"
    assert f"its log is kept: {log}\n  KVM internal error. Suberror: 1\n" in told
    assert "KVM internal error" in log.read_text()


@needs_qemu
@needs_device
def test_a_start_that_fails_under_kvm_asks_for_another_try(
    guest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of the VM remains, and what was chosen for it is known all the same."""
    Fake(tmp_path / "bin", LIES.replace("FATE", "exit 1"), monkeypatch)
    done = demo(guest)
    assert done.returncode == 3, done.stdout + done.stderr
    assert "KVM internal error. Suberror: 1" in done.stdout.partition("✗ not so: ")[2]
