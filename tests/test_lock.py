"""What the Debian package bundles is what the lock says: each file by its hash, from nowhere else."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
from packaging.requirements import Requirement

TOP = Path(__file__).parents[1]
WANTED = runpy.run_path(str(TOP / "scripts/lib/wanted.py"))["wanted"]
ENTRY = re.compile(r"^([a-z0-9][a-z0-9._-]*)==(\S+)(?: ; (.*?))?((?: --hash=\S+)+)$")
PYTHONS = ("3.11", "3.12", "3.13")  # of Debian 12, Ubuntu 24.04, Debian 13


def lines(name: str) -> list[str]:
    return (TOP / "requirements" / f"{name}.txt").read_text().splitlines()


def entries(name: str) -> dict[str, tuple[str, str, list[str]]]:
    """``{package: (version, marker, hashes)}``; every line of the lock must be one of them."""
    text = "\n".join(line for line in lines(name) if not line.startswith("#"))
    found = {}
    for line in re.sub(r" *\\\n *", " ", text).splitlines():
        matched = ENTRY.match(line)
        assert matched, line
        found[matched[1]] = (matched[2], matched[3] or "", matched[4].split())
    return found


@pytest.mark.parametrize("name", ["package", "build"])
def test_every_file_is_locked_by_its_hash(name: str) -> None:
    for package, (_, _, hashes) in entries(name).items():
        assert hashes, package
        assert all(re.fullmatch("--hash=sha256:[0-9a-f]{64}", one) for one in hashes), package


@pytest.mark.parametrize("name", ["package", "build"])
def test_the_lock_is_of_what_the_project_asks_for(name: str) -> None:
    """Whoever changes the dependencies runs scripts/lock."""
    wanted = WANTED(name)
    assert lines(name)[1].removeprefix("# For: ").split() == [w.replace(" ", "") for w in wanted]
    locked = entries(name)
    for need in map(Requirement, wanted):
        version, marker, _ = locked[need.name]
        assert need.specifier.contains(version), need
        assert not marker, f"{need} is locked for some Pythons only"


@pytest.mark.parametrize("name", ["package", "build"])
def test_no_registry_is_named(name: str) -> None:
    assert not [line for line in lines(name) if "://" in line or line.startswith("-")]


def test_what_is_locked_serves_every_python_that_a_package_is_built_for() -> None:
    for name in ("package", "build"):
        for marker in {marker for _, marker, _ in entries(name).values() if marker}:
            for python in PYTHONS:  # one for another system is passed over by pip
                Requirement(f"x ; {marker}").marker.evaluate({"python_version": python})  # type: ignore[union-attr]


def test_the_package_is_built_of_nothing_else() -> None:
    """Each call of pip in scripts/make-deb takes hashes, or no file of a registry at all."""
    script = (TOP / "scripts/make-deb").read_text()
    calls = re.findall(r"^.*\bpip install\b.*$", script, re.MULTILINE)
    assert len(calls) == 2
    assert all("--require-hashes" in call or "--no-index" in call for call in calls)
    assert script.count("locked --requirement") == 1
    assert script.count("locked --target") == 1
