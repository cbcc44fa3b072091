"""A table of names as the kernel has it: nft makes it, and lists it once."""

from __future__ import annotations

import os

import pytest

from hvtx.errors import HostRefused, HvtxError, NotPermitted
from hvtx.host import libnftables, named_sets, nfnetlink
from integration import lab

NAME = "hvtx-abcdefghij-names"


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What libnftables was asked for."""
    asked, run = list[str](), libnftables.run

    def noted(commands: str, **flags: bool) -> str:
        asked.append(commands)
        return run(commands, **flags)

    monkeypatch.setattr(libnftables, "run", noted)
    return asked


@pytest.mark.parametrize("comment", ["hvtx:1:abcdefghij:7.k", "two words; }", None])
def test_it_is_listed_once_and_has_its_comment(listed: list[str], comment: str | None) -> None:
    words = "" if comment is None else f'comment "{comment}";'
    lab.run("nft", f"add table inet {NAME} {{ {words} set n {{ type ipv4_addr; }}; }}")
    lab.run("nft", "add", "element", "inet", NAME, "n", "{ 192.0.2.1 }")
    lab.run("nft", f'add table ip {NAME} {{ comment "of another family"; }}')
    found = named_sets.read(NAME)
    assert found is not None
    assert (found.comment, found.addresses) == (comment, {"n": {bytes((192, 0, 2, 1))}})
    assert len(listed) == 1


def test_one_that_is_not_there_is_not_listed(listed: list[str]) -> None:
    lab.run("nft", f"add table ip {NAME}")
    assert named_sets.read(NAME) is None
    assert not listed


def test_one_that_goes_while_it_is_read_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    lab.run("nft", f"add table inet {NAME}")
    tables = nfnetlink.Nftables.tables

    def late(socket: nfnetlink.Nftables) -> list[nfnetlink.Table]:
        found = tables(socket)
        lab.run("nft", f"delete table inet {NAME}")
        return found

    monkeypatch.setattr(nfnetlink.Nftables, "tables", late)
    assert named_sets.read(NAME) is None


@pytest.mark.parametrize(
    ("number", "kind", "words"),
    [
        (1, NotPermitted, f"table inet {NAME} may not be read"),
        (12, HostRefused, f"table inet {NAME} cannot be read: Cannot allocate memory"),
    ],
)
def test_what_cannot_be_read_is_said(
    monkeypatch: pytest.MonkeyPatch, number: int, kind: type[HvtxError], words: str
) -> None:
    def refused(_: nfnetlink.Nftables) -> list[nfnetlink.Table]:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(nfnetlink.Nftables, "tables", refused)
    with pytest.raises(kind, match=words):
        named_sets.read(NAME)
