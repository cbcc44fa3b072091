"""A real ufw in the test's network namespace: Debian's, taken apart, with files of its own.

It writes the tables of the iptables that it is told to, whichever the host's alternatives name.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from integration.lab import packages

PYTHON = "/usr/bin/python3"  # the distribution's, whose package it is
_OWN = """mount --make-rprivate /
there=$(readlink -f "$(command -v iptables)") wanted=$(readlink -f "$(command -v iptables-{kind})")
[ "$there" = "$wanted" ] || mount --bind "$wanted" "$there"
{command}"""


def root() -> Path:
    """Where its package is, taken apart; skips the test where it cannot be had.

    To be asked in a fixture of the module, before a test has a network namespace of its own.
    """
    try:
        return packages.taken_apart(packages.UFW)
    except (packages.Unavailable, OSError, subprocess.SubprocessError) as problem:
        pytest.skip(str(problem))


class Ufw:
    """ufw as an administrator has it; ``kind`` is the iptables that it uses: nft or legacy."""

    def __init__(self, root: Path, place: Path, kind: str) -> None:
        """``root`` has its package; ``place`` is its own, and is not there yet."""
        shutil.copytree(root, place, symlinks=True)
        if not (place / "lib").exists():  # from Debian 13 on its files are below /usr, as all are
            (place / "lib").symlink_to("usr/lib")
        self.files, self.kind = place / "etc/ufw", kind
        for path in (place / "usr/share/ufw").glob("*.rules"):
            shutil.copy(path, self.files)  # as its package does when it is installed
        for path in (place / "usr/share/ufw/iptables").glob("*.rules"):
            shutil.copy(path, self.files)
        shutil.copy(place / "usr/share/ufw/ufw.conf", self.files)
        caller = place / "bin/ufw"
        caller.parent.mkdir()
        caller.write_text(
            f"#!/bin/sh\nexec {PYTHON} {place}/usr/sbin/ufw --rootdir={place} --datadir={place}"
            ' "$@"\n'
        )
        caller.chmod(0o755)
        self._environment = {
            **os.environ,
            "PYTHONPATH": str(place / "usr/lib/python3/dist-packages"),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PATH": f"{caller.parent}:{os.environ['PATH']}",
        }
        done = self._ran("ufw version")
        if done.returncode != 0:
            pytest.skip(f"ufw cannot run here: {done.stderr.strip()[-100:]}")

    def run(self, command: str) -> str:
        """A command of the shell, with ufw in it. Its standard output."""
        done = self._ran(command)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        return done.stdout

    def _ran(self, command: str) -> subprocess.CompletedProcess[str]:
        words = _OWN.format(kind=self.kind, command=command)
        return subprocess.run(
            ["unshare", "-m", "sh", "-ec", words], env=self._environment, capture_output=True,
            text=True, check=False,
        )  # fmt: skip
