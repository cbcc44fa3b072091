"""The Debian package brings what the pages have a person type: it depends on it, or recommends it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CONTROL = ROOT / "scripts/debian/control"
_BLOCK = re.compile(r"```(?:console|sh|bash)\n(.*?)```", re.DOTALL)
_TYPED = re.compile(r"^(?:\w+)?[#$] (.*)$", re.MULTILINE)
_COMMENT = re.compile(r"\s#\s.*|\s{3,}.*")  # or an explanation in a column of its own
_PARTS = re.compile(r"\|\|?|&&|;|\$\(|`")
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")
_BEFORE = re.compile(r"sudo|env|exec|nohup|!|\w+=\S*")  # what stands before a program

# Every Debian has these: its essential packages, and those that are always installed.
ALWAYS = frozenset(
    [
        "apt",
        "awk",
        "cat",
        "cp",
        "dpkg",
        "echo",
        "export",
        "grep",
        "head",
        "install",
        "kill",
        "ls",
        "printf",
        "rm",
        "sed",
        "setpriv",
        "sh",
        "sleep",
        "sort",
        "true",
        "truncate",
        "useradd",
    ]
)
PACKAGES = {  # of programs that hvtx's package has to bring
    "bridge": "iproute2",
    "curl": "curl",
    "hvtx": "hvtx",
    "ip": "iproute2",
    "iptables": "iptables",
    "jq": "jq",
    "nft": "nftables",
    "systemctl": "systemd",
}
ANOTHERS = {  # programs of a page that is about them, or that tells how to get them
    "firewall-cmd": ("firewalls.md", "of firewalld, beside which hvtx is"),
    "tcpdump": ("troubleshooting.md", "which says how to get it, and does without"),
    "pipx": ("README.md", "the way to install it without the package"),
    "visudo": ("privileges.md", "of sudo, which the page is about"),
}


def typed(text: str) -> Iterator[str]:
    """The programs that the blocks of a page have one type, but for scripts of the checkout."""
    for block in _BLOCK.findall(text):
        for line in _TYPED.findall(block):
            for part in _PARTS.split(_QUOTED.sub("''", _COMMENT.sub("", line))):
                words = part.split()
                while words and _BEFORE.fullmatch(words[0]):
                    words = words[1:]
                if words and re.fullmatch(r"[a-z][a-z0-9-]*", words[0]):
                    yield words[0]


def pages() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def brought() -> set[str]:
    """The packages that come with hvtx's, by apt's defaults."""
    fields = dict(re.findall(r"^(Depends|Recommends): (.*)$", CONTROL.read_text(), re.MULTILINE))
    named = ", ".join(fields.values())
    return {"hvtx"} | {word.split()[0] for word in named.split(", ")}


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.name))
def test_what_a_page_has_one_type_is_brought(page: Path) -> None:
    missing = []
    for program in sorted(set(typed(page.read_text())) - ALWAYS):
        if program in ANOTHERS and ANOTHERS[program][0] == page.name:
            continue
        package = PACKAGES.get(program)
        if package is None or package not in brought():
            missing.append(f"{program} ({package or 'in a package that this test does not know'})")
    assert missing == []


def test_what_the_pages_say_to_install_is_brought_or_said_where_it_is_used() -> None:
    """`apt install` of a page beside the package: what it names comes already, or is the page's own."""
    beside = {"mmdebstrap", "e2fsprogs"}  # a page shows how a guest's disk is made with them
    told = {
        word
        for page in pages()[1:]
        for line in re.findall(r"\(`apt install ([^`]*)`\)", page.read_text())
        for word in line.split()
    }
    assert {"jq", "curl", "qemu-system-x86", "dnsmasq-base"} <= told
    assert told - beside - brought() == set()


def test_programs_are_found_in_what_is_typed() -> None:
    block = "```console\n# A=1 sudo one --x 'y | z' | two && three   # a; comment\n$ ./four; five\nsix\n```"
    assert list(typed(block)) == ["one", "two", "three", "five"]
