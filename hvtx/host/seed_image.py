"""The image of a seed: ISO 9660 with Rock Ridge and Joliet, so that its names are what they are.

Made by pycdlib, which is loaded only here.
"""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Mapping

from hvtx.host import named_files, paths

MOST = 16 << 20  # bytes of a user-data: the largest clouds take 64 KiB


def read_user_data(path: str) -> bytes:
    """What a file of user-data says, as it is. Raises OSError, also for one that is too long.

    UnsafeError (an OSError) is for a link that somebody else made and that is not followed.
    """
    with os.fdopen(named_files.open_file(path), "rb") as file:
        content = file.read(MOST + 1)
    if len(content) > MOST:
        raise OSError(errno.EFBIG, f"it has more than {MOST >> 20} MiB", path)
    return content


def given_user_data(path: str) -> bytes:
    """The same for a start. Raises NotPermitted for such a link, OSError."""
    try:
        return read_user_data(path)
    except paths.UnsafeError as unsafe:
        raise named_files.refused("user-data", path, unsafe) from unsafe


def image(label: str, files: Mapping[str, bytes]) -> bytes:
    """A file system of that label with those files, by name. Raises ImportError."""
    import pycdlib

    disk = pycdlib.PyCdlib()
    disk.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident=label)
    kept = []  # they are read when the image is written
    for number, (name, content) in enumerate(files.items()):
        kept.append(io.BytesIO(content))
        disk.add_fp(
            kept[-1],
            len(content),
            f"/FILE{number}.;1",
            rr_name=name,
            joliet_path=f"/{name}",
            file_mode=0o100400,
        )
    found = io.BytesIO()
    disk.write_fp(found)
    disk.close()
    return found.getvalue()
