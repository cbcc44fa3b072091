"""What a qcow2 header names, from headers that are written out here (docs/interop/qcow2 of QEMU)."""

from __future__ import annotations

import os
import struct
import sys
from pathlib import Path

import pytest

from hvtx.host import images, seccomp, vmuser
from hvtx.model.user import User


def header(backing: bytes = b"", *, version: int = 3, data: bytes = b"") -> bytes:
    """A header of 104 bytes, its extensions, and the backing file's name behind them."""
    extensions = struct.pack(">II", 0x6803F857, 4) + b"name" + bytes(4)
    if data:
        extensions += struct.pack(">II", 0x44415441, len(data)) + data + bytes(-len(data) % 8)
    extensions += bytes(8)
    at = 104 + len(extensions)
    head = b"QFI\xfb" + struct.pack(">IQI", version, at if backing else 0, len(backing))
    head += bytes(72 - len(head)) + struct.pack(">Q", 4 if data else 0)
    head += bytes(100 - len(head)) + struct.pack(">I", 104)
    return head + extensions + backing


@pytest.mark.parametrize(
    ("name", "option"),
    [
        (b"base.raw", "/d/base.raw"), (b"../up/base,1", "/d/../up/base,1"), (b"./a:b", "/d/./a:b"),
        (b"/abs/base", None), (b"nbd:host:1", None), (b"json:{}", None), (b"", None),
        (b"a\0b", None), (b"x" * 1024, None),
    ],
)  # fmt: skip
def test_relative_names_are_made_whole(tmp_path: Path, name: bytes, option: str | None) -> None:
    """Relative to the image, as QEMU tells relative names; of everything else nothing is said."""
    path = tmp_path / "d.qcow2"
    path.write_bytes(header(name))
    found = dict(images.relative(str(path)))
    expected = (
        {} if option is None else {"backing.file.filename": option.replace("/d", str(tmp_path), 1)}
    )
    assert found == expected


def test_an_external_data_file() -> None:
    assert images.named(header(data=b"data.raw")) == (("data-file.filename", "data.raw"),)
    assert images.named(header(version=2, data=b"data.raw")) == ()


def test_what_is_no_whole_header_names_nothing() -> None:
    """Every length, and every byte that says where things are made as great as it can be."""
    whole = header(b"base", data=b"data")
    for size in range(len(whole)):
        images.named(whole[:size])
    for at in range(4, len(whole)):
        images.named(whole[:at] + b"\xff" + whole[at + 1 :])
    assert images.named(b"") == images.named(b"not an image at all" * 10) == ()
    assert images.relative("/nonexistent") == images.relative("/") == ()


def test_who_can_open_a_file_by_its_name(tmp_path: Path) -> None:
    """Each directory above counts, and what a link leads to."""
    user = User(12345, 12345)
    assert vmuser.may_open(user, "/bin/sh", 1)
    assert not vmuser.may_open(user, "/etc/shadow", 4)
    assert not vmuser.may_open(user, "/nonexistent", 4)
    shut = tmp_path / "shut"
    shut.mkdir()
    (shut / "file").touch(0o644)
    shut.chmod(0o700)
    assert not vmuser.may_open(user, str(shut / "file"), 4)
    assert (
        vmuser.may_open(user._replace(uid=os.getuid()), str(shut / "file"), 4) or os.getuid() == 0
    )


def test_a_sandbox_is_told_from_the_binary(tmp_path: Path) -> None:
    assert seccomp.sandbox_of("/nonexistent") is None
    script = tmp_path / "qemu"
    script.write_bytes(b"#!/bin/sh\n# libseccomp.so.2\n")
    assert seccomp.sandbox_of(str(script)) is None
    script.write_bytes(b"\x7fELF" + bytes(100) + b"\0libseccomp.so.2\0")
    assert seccomp.sandbox_of(str(script)) == seccomp.SANDBOX
    script.write_bytes(b"\x7fELF" + bytes(100))
    assert seccomp.sandbox_of(str(script)) is None
    assert seccomp.sandbox_of(sys.executable) is None
