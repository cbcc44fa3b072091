"""This checkout as a repository of its own with one commit after another: its versions count them."""

from __future__ import annotations

import shutil
from pathlib import Path

from integration import lab
from integration.lab.boot.image import TOP


class Commits:
    """A copy of this checkout in ``place``, which must not be there yet."""

    def __init__(self, place: Path) -> None:
        self.place = place
        no = shutil.ignore_patterns(".*", "*.egg-info", "__pycache__", "_version.py")
        shutil.copytree(TOP, place, ignore=no)
        shutil.copy(TOP / ".gitignore", place)
        self._git("init", "-q")
        self._git("add", "-A")

    def commit(self) -> None:
        """One more, with nothing new in it but for the first."""
        self._git("commit", "-q", "--allow-empty", "-m", "one more")

    def _git(self, *argv: str) -> None:
        who = ("-c", "user.name=nobody", "-c", "user.email=nobody@hvtx.invalid")
        lab.run("git", "-C", str(self.place), *who, *argv)
