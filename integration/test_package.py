"""The Debian package: built from this checkout, installed in a clean Debian, used, and purged.

The Debian is the root of the boot tests' image, entered by chroot in a mount namespace of its own.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from integration import lab
from integration.boot.image import TOP, root_tar

_KEEP = (
    'set -e; mount --make-rprivate /; mount -t proc proc "$1/proc"; mount --rbind /dev "$1/dev";'
    ' mount -t sysfs sysfs "$1/sys"; echo ready; exec sleep 900'
)


@pytest.fixture(scope="module")
def package() -> Path:
    done = subprocess.run(
        [TOP / "scripts/make-deb"], capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.splitlines()[-1])


@pytest.fixture
def inside(package: Path, tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Runs programs in a fresh Debian, with the package as /hvtx.deb."""
    root = tmp_path / "root"
    root.mkdir()
    lab.run("tar", "-xf", str(root_tar()), "-C", str(root), timeout=300)
    (root / "usr/local/bin/hvtx").unlink()
    (root / "hvtx.deb").write_bytes(package.read_bytes())
    keeper = subprocess.Popen(
        ["unshare", "-m", "sh", "-c", _KEEP, "sh", str(root)], stdout=subprocess.PIPE
    )
    assert keeper.stdout is not None
    assert keeper.stdout.readline() == b"ready\n"

    def run(*argv: str) -> str:
        enter = ["nsenter", "-t", str(keeper.pid), "-m", "--", "chroot", str(root)]
        clean = ["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"]
        return lab.run(*enter, *clean, *argv, timeout=300)

    yield run
    keeper.kill()
    keeper.wait()
    keeper.stdout.close()


@pytest.mark.timeout(900)
def test_installed_used_and_purged(inside: Callable[..., str]) -> None:
    """Whole, on its own Python packages; gone without a trace but for the record."""
    before = set(inside("find", "/usr", "/etc", "/var/lib", "-xdev").splitlines())
    inside("dpkg", "-i", "/hvtx.deb")
    assert inside("dpkg", "-s", "hvtx").count("Status: install ok installed") == 1
    assert inside("hvtx", "--version").startswith("hvtx ")
    files = inside("dpkg", "-L", "hvtx").splitlines()
    for name in (
        "/usr/share/man/man1/hvtx-gc.1.gz",
        "/usr/share/bash-completion/completions/hvtx",
        "/usr/share/zsh/vendor-completions/_hvtx",
        "/usr/lib/systemd/system/hvtx-recover.service",
    ):
        assert name in files
    inside("systemd-analyze", "verify", "/usr/lib/systemd/system/hvtx-recover.service")
    enabled = inside("systemctl", "is-enabled", "hvtx-recover.service", "hvtx-gc.timer")
    assert enabled.split() == ["enabled", "enabled"]
    unit = inside("cat", "/usr/lib/systemd/system/hvtx-gc.service")
    assert "ExecStart=/usr/bin/hvtx gc --apply\n" in unit

    for backend in ("nftables", "iptables"):
        inside("hvtx", "--firewall", backend, "network", "create", backend[:3],
               "--subnet", "10.77.0.0/24" if backend == "nftables" else "10.78.0.0/24")  # fmt: skip
    inside("hvtx", "vm", "run", "web", "--network", "nft", "-p", "8080:80", "--", "sleep", "600")
    inside("hvtx", "vm", "run", "old", "--network", "ipt", "-p", "8081:80", "--", "sleep", "600")
    assert '"running"' in inside("hvtx", "vm", "ls", "--json")

    told = inside("dpkg", "--remove", "hvtx")
    assert "VMs: old web" in told
    assert "networks: ipt nft" in told
    assert lab.run("ip", "-br", "link").count("\nhv") == 4, "what runs goes on"
    told = inside("dpkg", "-i", "/hvtx.deb")
    for name in ("web", "old"):
        inside("hvtx", "vm", "rm", name, "--force")
    for name in ("nft", "ipt"):
        inside("hvtx", "network", "rm", name)
    assert "the record stays" in inside("dpkg", "--purge", "hvtx")
    left = set(inside("find", "/usr", "/etc", "/var/lib", "-xdev").splitlines()) - before
    record = {path for path in left if path.startswith("/var/lib/hvtx")}
    assert "/var/lib/hvtx/hvtx.db" in record
    own = {
        path for path in left - record if "/dpkg/" not in path and "/var/lib/systemd" not in path
    }
    assert own == set()
