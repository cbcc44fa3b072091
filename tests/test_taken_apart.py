"""Debian's packages for the integration tests: got once, whoever asks, and before a test's namespace."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from integration.lab import packages

_FORK = multiprocessing.get_context("fork")
_APT = """#!/bin/sh
echo asked >>"$ASKED"
sleep 0.3
: >some.deb
"""
_DPKG = """#!/bin/sh
mkdir -p "$3/usr"
"""


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """How often apt-get was called, a line each; and an empty cache."""
    for name, text in {"apt-get": _APT, "dpkg-deb": _DPKG, "apt-cache": "#!/bin/sh\n"}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("ASKED", str(tmp_path / "asked"))
    monkeypatch.setattr(packages, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(packages, "_OUTSIDE", packages._namespace())  # this test has one, too
    return tmp_path / "asked"


def test_of_several_that_want_the_same_one_gets_it(asked: Path) -> None:
    """A test that begins while another run fills the cache waits for it."""
    begun = [_FORK.Process(target=packages.taken_apart, args=(("some",),)) for _ in range(4)]
    for process in begun:
        process.start()
    for process in begun:
        process.join(30)
    assert [process.exitcode for process in begun] == [0] * 4
    assert asked.read_text().splitlines() == ["asked"]
    assert (packages.taken_apart(("some",)) / "usr").is_dir()
    assert sorted(path.name for path in packages.CACHE.iterdir()) == ["lock", "some"]


def test_in_a_namespace_of_a_test_they_are_found_and_never_downloaded(
    asked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That would fail, and the test would be skipped: it is to ask in a fixture of its module."""
    monkeypatch.setattr(packages, "_OUTSIDE", 0)
    with pytest.raises(AssertionError, match="in a fixture of its module"):
        packages.taken_apart(("some",))
    assert not asked.exists()
    (packages.CACHE / "some").mkdir(parents=True)
    assert packages.taken_apart(("some",)) == packages.CACHE / "some"
