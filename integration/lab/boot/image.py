"""The image of a small host with systemd, in ``.cache/boot``: made once, used by every boot test.

It is a Debian 12 with systemd, nftables, iptables, a Python environment ``/opt/hvtx`` that has what
hvtx depends on, and no hvtx: the tree under test is installed into it afresh by each test. As a
program it makes everything that the tests need::

    sudo python -m integration.lab.boot.image

mmdebstrap makes the root file system. Docker is taken from the host if it has one; if not, its
Debian packages are downloaded and unpacked in the cache, so that nothing is installed (their
installation would start a daemon in the host's own network).
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tarfile
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

from integration.lab.boot.bootstrap import Unavailable, bootstrap, digest, run

__all__ = ["Unavailable", "run"]  # also for those who want this image alone
TOP = Path(__file__).resolve().parents[3]
CACHE = TOP / ".cache" / "boot"
SUITE = "bookworm"  # of the hosts that boot
TRUSTED = "/etc/ssl/certs/ca-certificates.crt"
_OF_THIS_HOST = ("PIP_FIND_LINKS", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")
PACKAGES = (
    "systemd", "systemd-sysv", "dbus", "udev", "kmod", "iproute2", "nftables", "iptables",
    "python3", "python3-venv", "apt", "ca-certificates",  # Ubuntu's mmdebstrap leaves apt out
)  # fmt: skip
DOCKER_PACKAGES = ("docker.io", "containerd", "runc", "tini")
# Units that only cost time or touch what is not theirs in a container and on an emulated machine.
MASKED = (
    "apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "fstrim.timer",
    "e2scrub_all.timer", "systemd-networkd.service", "systemd-resolved.service",
    "systemd-timesyncd.service", "systemd-udev-trigger.service", "getty@tty1.service",
    "console-getty.service", "systemd-random-seed.service", "systemd-pstore.service",
    "systemd-firstboot.service",
)  # fmt: skip


def dependencies() -> list[str]:
    """What hvtx needs at run time, and what builds its wheel, as pip names them."""
    project = tomllib.loads((TOP / "pyproject.toml").read_text())
    return [*project["project"]["dependencies"], *project["build-system"]["requires"], "wheel"]


def suite_of(release: Mapping[str, str]) -> str:
    """The release whose Python a package built on this system is for (pure), of os-release(5)."""
    known = release.get("ID") in ("debian", "ubuntu")
    return release.get("VERSION_CODENAME", SUITE) if known else SUITE


def suite_here() -> str:
    """The release of this system."""
    return suite_of(platform.freedesktop_os_release())


def recipe(suite: str = SUITE) -> str:
    """A word that changes with whatever the image is made of."""
    parts = [suite, *PACKAGES, *MASKED, *dependencies(), *hooks([])]
    return digest(parts)


def hooks(wanted: Sequence[str]) -> list[str]:
    """What mmdebstrap's shell does in the root ``$1`` once the packages are in (pure)."""
    pip = "/opt/hvtx/bin/pip --quiet --disable-pip-version-check --no-cache-dir install"
    if os.path.exists(TRUSTED):  # whom this host trusts: a proxy may speak for the package index
        unset = " ".join(f"-u {name}" for name in _OF_THIS_HOST)
        pip = f"env {unset} PIP_CERT=/trusted.crt {pip}"
    quoted = " ".join(f"'{word}'" for word in wanted)
    masks = " ".join(f"/etc/systemd/system/{unit}" for unit in MASKED)
    return [
        'chroot "$1" python3 -m venv /opt/hvtx',
        f'if [ -e {TRUSTED} ]; then cp {TRUSTED} "$1/trusted.crt"; fi',
        f'chroot "$1" {pip} {quoted}',
        f'for unit in {masks}; do ln -sf /dev/null "$1$unit"; done',
        'ln -sf /opt/hvtx/bin/hvtx "$1/usr/local/bin/hvtx"',
        'cd "$1" && rm -rf trusted.crt var/cache/apt/*.bin var/lib/apt/lists/* usr/share/doc/*',
        'cd "$1" && rm -rf usr/share/locale/* usr/share/man/*',
        ': >"$1/etc/machine-id"; echo boot >"$1/etc/hostname"',
    ]


def root_tar(suite: str = SUITE) -> Path:
    """The root file system of a release as a tar; made if it is not there (about a minute). Raises Unavailable."""
    path = CACHE / f"root-{suite}-{recipe(suite)}.tar"
    if path.exists():
        return path
    CACHE.mkdir(parents=True, exist_ok=True)
    part = CACHE / "part.tar"
    bootstrap(suite, part, PACKAGES, hooks(dependencies()), seconds=900)
    for old in CACHE.glob(f"root-{suite}-*.tar"):
        old.unlink()
    part.rename(path)
    return path


def docker_path() -> str:
    """A PATH that has dockerd, containerd and runc; downloaded and unpacked if the host has none."""
    path = os.environ.get("PATH", os.defpath)
    if all(shutil.which(name) for name in ("dockerd", "containerd", "runc")):
        return path
    tools = CACHE / "docker"
    if not tools.exists():
        part = CACHE / "docker.part"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        # The sandbox user of apt may not write below a home directory.
        option = ("-o", "APT::Sandbox::User=root", "-o", "Acquire::Retries=3")
        run("apt-get", "-q", *option, "download", *DOCKER_PACKAGES, cwd=part)
        for package in part.glob("*.deb"):
            run("dpkg-deb", "-x", str(package), str(part / "root"))
            package.unlink()
        part.rename(tools)
    return f"{tools}/root/usr/sbin:{tools}/root/usr/bin:{path}"


def source_tar() -> bytes:
    """The tree under test as a tar whose members lie in ``hvtx-source/``."""
    import io

    def wanted(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        return None if "__pycache__" in member.name else member

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in ("pyproject.toml", "README.md", "hvtx", "migrations"):
            archive.add(TOP / name, f"hvtx-source/{name}", filter=wanted)
    return buffer.getvalue()


# Makes a wheel of /hvtx-source and installs it, as a user would; nothing is downloaded.
INSTALL = (
    "cd /hvtx-source && PIP='/opt/hvtx/bin/python -m pip --quiet --disable-pip-version-check' &&"
    " $PIP wheel --no-deps --no-build-isolation -w /wheels . &&"
    " $PIP install --no-deps --no-index /wheels/hvtx-*.whl && cd / &&"
    " rm -rf /hvtx-source && hvtx --version"
)


def main() -> int:
    """Make what is missing and say where it is."""
    try:
        for suite in sorted({SUITE, suite_here()}):
            sys.stdout.write(f"root file system: {root_tar(suite)}\n")
        sys.stdout.write(f"docker: {docker_path().partition(':')[0]}\n")
    except Unavailable as problem:
        sys.stderr.write(f"error: {problem}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
