"""Installed by pipx, used, upgraded under a running VM and removed, by the commands of README.

pipx is Debian's; what pip would download is downloaded before, as requirements/*.txt has it, so that
the test's own network namespace can be without a way to an index.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from integration import lab
from integration.lab import packages
from integration.lab.boot.image import TOP
from integration.lab.commits import Commits
from integration.lab.program import Program

pytestmark = pytest.mark.timeout(900)  # two environments are made, each by a pip of its own
Pipx = Callable[..., str]


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All that hvtx needs and is built with, and what pipx keeps beside it."""
    place = tmp_path_factory.mktemp("wheels")
    get = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:"]
    for what in (
        ["--require-hashes", "-r", str(TOP / "requirements/package.txt")],
        ["--require-hashes", "-r", str(TOP / "requirements/build.txt")],
        ["pip", "wheel"],
    ):
        subprocess.run([*get, "-d", str(place), *what], check=True, timeout=300)
    return place


@pytest.fixture(scope="module")
def root() -> Path:
    try:
        return packages.taken_apart(packages.PIPX)
    except packages.Unavailable as problem:
        pytest.skip(str(problem))


@pytest.fixture
def pipx(root: Path, wheels: Path, tmp_path: Path) -> Pipx:
    """Runs pipx in a checkout, with Debian's Python and nothing of ours; its standard output."""
    environment = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(tmp_path), "LC_ALL": "C.UTF-8",
        "PYTHONPATH": str(root / "usr/lib/python3/dist-packages"),
        "PIPX_HOME": str(tmp_path / "pipx"), "PIPX_BIN_DIR": str(tmp_path / "bin"),
        "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels), "PIP_CONFIG_FILE": os.devnull,
    }  # fmt: skip

    def run(checkout: Path, *argv: str) -> str:
        done = subprocess.run(
            ["/usr/bin/python3", "-m", "pipx", *argv], cwd=checkout, env=environment,
            capture_output=True, text=True, check=False, timeout=600,
        )  # fmt: skip
        assert done.returncode == 0, (argv, done.stdout, done.stderr)
        return done.stdout

    return run


class Installed(Program):
    """The program that pipx has put there."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def said(self, *arguments: str) -> str:
        done = subprocess.run(
            [str(self.path), *arguments], capture_output=True, text=True, check=False, timeout=300,
            cwd="/",
        )  # fmt: skip
        assert done.returncode == 0, (arguments, done.stdout, done.stderr)
        return done.stdout

    def version(self) -> int:
        """How many commits its version counts."""
        found = re.fullmatch(r"hvtx \d+\.\d+\.\d+\.post(\d+)\+g[0-9a-f]+\n", self.said("--version"))
        assert found
        return int(found[1])


def test_installed_upgraded_under_a_running_vm_and_removed(pipx: Pipx, tmp_path: Path) -> None:
    """The upgrade is that of README, since another `pipx install .` changes nothing and ends with 0."""
    page = (TOP / "README.md").read_text()
    for words in ("install .", "install --force . && sudo hvtx systemd install", "uninstall hvtx"):
        assert f"PIPX_BIN_DIR=/usr/local/bin pipx {words}\n" in page
    commits = Commits(tmp_path / "checkout")
    commits.commit()
    pipx(commits.place, "install", ".")
    hvtx = Installed(tmp_path / "bin/hvtx")
    assert hvtx.version() == 1
    hvtx.said("network", "create", "lan", "--subnet", "10.77.0.0/24")
    hvtx.said("vm", "run", "web", "--network", "lan", "-p", "8080:80", "--", "sleep", "900")
    host, vms = lab.dump(), hvtx.said("vm", "ls", "--json")
    assert '"running"' in vms

    commits.commit()
    assert "already seems to be installed" in pipx(commits.place, "install", ".")
    assert hvtx.version() == 1
    pipx(commits.place, "install", "--force", ".")
    assert hvtx.version() == 2
    assert hvtx.said("vm", "ls", "--json") == vms
    assert lab.difference(host, lab.dump()) == ""
    hvtx.said("repair")
    assert lab.difference(host, lab.dump()) == "", "the new one has nothing to repair"
    hvtx.said("vm", "restart", "web", "--timeout", "1")
    hvtx.said("vm", "rm", "web", "--force")
    hvtx.said("network", "rm", "lan")

    pipx(commits.place, "uninstall", "hvtx")
    assert not hvtx.path.is_symlink()
    assert list((tmp_path / "pipx/venvs").iterdir()) == []
    assert Path(os.environ["HVTX_STATE_DIR"], "hvtx.db").exists(), "the record stays"
