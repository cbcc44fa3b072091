"""A real firewalld in the test's network namespace: Debian's, taken apart, on a bus of its own.

It runs with a configuration directory of its own, and with a /run and a /var/log of its own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from integration import lab
from integration.lab import packages
from integration.lab.waiting import until

PYTHON = "/usr/bin/python3"  # the distribution's, whose packages it needs
_OWN = "mount --make-rprivate / && mount -t tmpfs none /run && mount -t tmpfs none /var/log"
_BUS = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>unix:path={path}</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*"/><allow own="*"/><allow receive_sender="*"/>
<allow eavesdrop="true"/></policy></busconfig>
"""


def root() -> Path:
    """Where its packages are, taken apart; skips the test where they cannot be had.

    To be asked in a fixture of the module, before a test has a network namespace of its own.
    """
    try:
        return packages.taken_apart(packages.FIREWALLD)
    except (packages.Unavailable, OSError, subprocess.SubprocessError) as problem:
        pytest.skip(str(problem))


class Firewalld:
    """The daemon and its bus; `address` is what DBUS_SYSTEM_BUS_ADDRESS is to be."""

    def __init__(self, root: Path, place: Path) -> None:
        """Skips the test where it cannot run; ``root`` has its packages, ``place`` is its own."""
        for needed in ("dbus-daemon", "busctl", "nft"):
            if shutil.which(needed) is None:
                pytest.skip(f"there is no {needed} here")
        self._root = root
        libraries = self._root / "usr/lib/python3/dist-packages"
        self.zones, self._place = place / "etc/zones", place
        bus = place / "bus"
        self.address = f"unix:path={bus}"
        self._environment = {
            **os.environ,
            "DBUS_SYSTEM_BUS_ADDRESS": self.address,
            "PYTHONPATH": str(libraries),
            "LD_LIBRARY_PATH": ":".join(map(str, self._root.glob("usr/lib/*-linux-gnu"))),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PATH": f"{place}/bin:{os.environ['PATH']}",
        }
        tried = [PYTHON, "-c", "import dbus, gi, nftables, firewall.core.fw"]
        done = subprocess.run(
            tried, env=self._environment, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            pytest.skip(f"firewalld cannot run here: {done.stderr.strip()[-100:]}")
        caller = place / "bin/firewall-cmd"
        caller.parent.mkdir()
        caller.write_text(f'#!/bin/sh\nexec {PYTHON} {self._root}/usr/bin/firewall-cmd "$@"\n')
        caller.chmod(0o755)
        shutil.copytree(self._root / "etc/firewalld", place / "etc")
        self.vendors = place / "usr/zones"  # zones that packages bring
        shutil.copytree(self._root / "usr/lib/firewalld", place / "usr")
        self.zones.mkdir(exist_ok=True)
        (place / "bus.conf").write_text(_BUS.format(path=bus))
        self._bus = subprocess.Popen(
            ["dbus-daemon", f"--config-file={place / 'bus.conf'}", "--nofork", "--nopidfile"],
            stderr=subprocess.DEVNULL,
        )
        self._daemon: subprocess.Popen[bytes] | None = None
        until("the bus", bus.exists)

    def start(self) -> None:
        """Begin, and wait until its rules are in the kernel."""
        program = str(self._root / "usr/sbin/firewalld")
        words = [PYTHON, program, "--nofork", "--nopid", "--system-config", self._place / "etc"]
        words += ["--default-config", self._place / "usr"]
        self._daemon = subprocess.Popen(
            ["unshare", "-m", "sh", "-c", f'{_OWN} && exec "$@"', "sh", *map(str, words)],
            env=self._environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        until("firewalld", lambda: self.says("--state") == "running")

    def stop(self) -> None:
        """End it as its unit does."""
        assert self._daemon is not None
        self._daemon.terminate()
        self._daemon.wait(30)
        self._daemon = None

    def says(self, *words: str) -> str:
        """What firewall-cmd prints."""
        return self.run(f"firewall-cmd {' '.join(words)}", check=False).strip()

    def run(self, command: str, *, check: bool = True) -> str:
        """A command of the shell, with firewall-cmd in it. Its standard output."""
        done = subprocess.run(
            ["sh", "-c", command], env=self._environment, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert not check or done.returncode == 0, (command, done.stdout, done.stderr)
        return done.stdout

    def table(self) -> str:
        """Its table."""
        return lab.run("nft", "list", "table", "inet", "firewalld")

    def close(self) -> None:
        """End both."""
        for process in (self._daemon, self._bus):
            if process is not None:
                process.kill()
                process.wait()
