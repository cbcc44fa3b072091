"""What the dnsmasq of a host can do, as it says itself."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from hvtx.host import dnsmasq


def test_each_program_is_asked_once_what_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another file of the same name is another program; one that fails is asked again."""
    path, asked = tmp_path / "dnsmasq", tmp_path / "asked"
    monkeypatch.setattr(dnsmasq, "NAMES", (str(path),))

    def install(words: str) -> None:
        draft = tmp_path / "draft"
        draft.write_text(f"#!/bin/sh\necho asked >>{asked}\n{words}\n")
        draft.chmod(0o755)
        os.rename(draft, path)

    def times() -> int:
        return len(asked.read_text().splitlines())

    install("echo Compile time options: IPv6 nftset auth; exit 0")
    assert dnsmasq.fills_no_sets() is None
    assert dnsmasq.fills_no_sets() is None
    assert times() == 1
    install("echo Compile time options: IPv6 no-nftset auth; exit 0")
    for _ in range(2):
        why = dnsmasq.fills_no_sets()
        assert why is not None
        assert why.message == f"names cannot be allowed: {path} fills no sets of nftables"
    assert times() == 2
    install("echo nftset; exit 1")
    assert dnsmasq.fills_no_sets() is not None
    assert dnsmasq.fills_no_sets() is not None
    assert times() == 4


def test_where_there_is_none_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dnsmasq, "NAMES", ("/nonexistent/dnsmasq",))
    why = dnsmasq.fills_no_sets()
    assert why is not None
    assert "is not installed" in why.message


def test_one_that_does_not_run_says_how_it_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it wrote last, and the command by which a person sees it."""
    path = tmp_path / "dnsmasq"
    monkeypatch.setattr(dnsmasq, "NAMES", (str(path),))
    assert dnsmasq.broken() is None  # another check says that there is none
    for script, words in (
        ("echo 2.90; exit 0", None),
        ("echo first; echo libubus.so is missing >&2; exit 127", "127: libubus.so is missing"),
        ("exit 1", "1: it says nothing"),
    ):
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        problem = dnsmasq.broken()
        told = None if problem is None else problem.message
        wanted = f"dnsmasq does not run: {path} --version: ended with status {words}"
        assert told == (wanted if words else None)
        assert problem is None or f"{path} --version" in str(problem.hint)
    path.write_bytes(b"\x7fELF")
    assert "Exec format error" in str(dnsmasq.broken())


def test_it_is_believed_by_what_it_says_where_nobody_knows_how_it_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that uses the library may ignore how its children end."""
    path = tmp_path / "dnsmasq"
    monkeypatch.setattr(dnsmasq, "NAMES", (str(path),))
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        for words, runs in (
            ("Dnsmasq version 2.90 nftset", True),
            ("libubus.so is missing", False),
        ):
            path.write_text(f"#!/bin/sh\nsleep 0.05; echo {words}\n")
            path.chmod(0o755)
            problem = dnsmasq.broken()
            assert (problem is None) == runs
            assert (dnsmasq.fills_no_sets() is None) == runs
            assert problem is None or f"ended, and nobody knows how: {words}" in problem.message
    finally:
        signal.signal(signal.SIGCHLD, before)
