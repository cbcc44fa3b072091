"""Root file systems by mmdebstrap, made once and kept in a cache."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

DEBIANS = ("bookworm", "trixie", "forky", "sid")
KEYS = "/usr/share/keyrings/debian-archive-keyring.gpg"


class Unavailable(Exception):
    """What an image needs is not to be had here; the message says what."""


def run(
    *argv: str, seconds: float = 600, cwd: str | Path | None = None, stdin: bytes | None = None
) -> str:
    """Run a program of the host to its end; returns its standard output. Raises Unavailable."""
    done = subprocess.run(
        argv, capture_output=True, input=stdin, timeout=seconds, check=False, cwd=cwd
    )
    if done.returncode != 0:
        words = done.stderr.decode(errors="replace")[-2000:]
        raise Unavailable(f"{' '.join(argv)}: exit {done.returncode}\n{words}")
    return done.stdout.decode(errors="replace")


def bootstrap(
    suite: str, target: Path, packages: Sequence[str], hooks: Sequence[str], seconds: int = 1800
) -> None:
    """Make a root file system: a directory, or a tar where ``target`` ends with .tar.

    ``hooks`` are lines of a shell, run with the root as ``$1`` once the packages are in. apt in the
    new root speaks with the mirrors of this host. Raises Unavailable.
    """
    if shutil.which("mmdebstrap") is None:
        raise Unavailable("mmdebstrap is missing: apt-get install mmdebstrap")
    argv = ["mmdebstrap", "--variant=minbase", "--mode=root", f"--include={','.join(packages)}"]
    argv += ['--aptopt=Acquire::Retries "3"', '--aptopt=APT::Sandbox::User "root"']
    argv += [f"--customize-hook={hook}" for hook in hooks]
    if suite not in DEBIANS:
        argv += ["--components=main,universe"]
    elif os.path.exists(KEYS):  # apt of another distribution does not trust them by itself
        argv += [f"--keyring={KEYS}"]
    run(*argv, suite, str(target), seconds=seconds, cwd="/")


def digest(parts: Sequence[str]) -> str:
    """A word that changes with whatever an image is made of (pure)."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class KeptRoot:
    """A root as a directory ``cache/prefix-suite-digest``, the lower layer of hosts that tests make."""

    cache: Path
    prefix: str
    suite: str
    packages: Sequence[str]
    hooks: Sequence[str]
    others: Sequence[str] = ()  # what it is made of beside these

    def path(self) -> Path:
        """Where it is, or will be."""
        parts = [self.suite, *self.packages, *self.hooks, *self.others]
        return self.cache / f"{self.prefix}-{self.suite}-{digest(parts)}"

    def made(self) -> Path:
        """The root; made if it is not there, in the place of older ones. Raises Unavailable."""
        place = self.path()
        if place.exists():
            return place
        self.cache.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix="part-", dir=self.cache))
        try:
            bootstrap(self.suite, part, self.packages, self.hooks)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
        part.chmod(0o755)
        for old in self.cache.glob(f"{self.prefix}-{self.suite}-*"):
            shutil.rmtree(old, ignore_errors=True)
        part.rename(place)
        return place

    def main(self, what: str) -> int:
        """Make it if it is missing, and say where it is; the exit code."""
        try:
            sys.stdout.write(f"{what}: {self.made()}\n")
        except Unavailable as problem:
            sys.stderr.write(f"error: {problem}\n")
            return 1
        return 0
