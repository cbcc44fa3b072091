"""Files that a disk image refers to: the header of qcow2 (docs/interop/qcow2 of QEMU), bounded."""

from __future__ import annotations

import os
import struct

from hvtx.host import named_files

_READ = 1 << 16  # the header, its extensions and the backing file's name lie in the first cluster
_LONGEST_NAME = 1023
_EXTERNAL_DATA, _DATA_FILE = 4, 0x44415441  # a bit at offset 72 to 79; "DATA"


def relative(path: str) -> tuple[tuple[str, str], ...]:
    """Options of QEMU for files that the image at ``path`` names relative to itself.

    QEMU cannot find them beside an image that it opens by a descriptor. Nothing is opened here,
    and what the names lead to is opened by QEMU, as the VM's user.
    """
    try:
        head = named_files.head(path, _READ)
    except OSError:
        return ()
    place = os.path.dirname(path)
    return tuple(
        (key, os.path.join(place, name)) for key, name in named(head) if _is_relative(name)
    )


def named(head: bytes) -> tuple[tuple[str, str], ...]:
    """``(option, file name)`` of the backing file and of an external data file (pure)."""
    if len(head) < 72 or not head.startswith(b"QFI\xfb"):
        return ()
    version, offset, size = struct.unpack_from(">IQI", head, 4)
    found = []
    if offset and 0 < size <= _LONGEST_NAME and offset + size <= len(head):
        found.append(("backing.file.filename", os.fsdecode(head[offset : offset + size])))
    if version >= 3 and len(head) >= 104 and head[79] & _EXTERNAL_DATA:
        name = _extension(head, _DATA_FILE)
        if name:
            found.append(("data-file.filename", os.fsdecode(name)))
    return tuple((key, name) for key, name in found if "\0" not in name)


def _extension(head: bytes, wanted: int) -> bytes:
    at = int(struct.unpack_from(">I", head, 100)[0])
    while at + 8 <= len(head):
        kind, size = struct.unpack_from(">II", head, at)
        if kind == 0:
            break
        if kind == wanted:
            return head[at + 8 : at + 8 + size] if size <= _LONGEST_NAME else b""
        at += 8 + (size + 7 & ~7)
    return b""


def _is_relative(name: str) -> bool:
    """As QEMU tells it: no path from the root, and no protocol before a colon."""
    if name.startswith("/"):
        return False
    colon = name.find(":")
    return colon < 0 or "/" in name[:colon]
