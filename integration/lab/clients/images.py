"""An image of a container made on the spot: Debian's static busybox, which serves one page by HTTP."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile

NAME = "localhost/page:1"
PAGE = "served by busybox"
SERVE = ("/bin/busybox", "httpd", "-f", "-p", "80", "-h", "/www")


def archive(busybox: bytes) -> bytes:
    """The image as a tar that `docker save` would make (pure)."""
    sleep = b'#!/bin/busybox sh\nexec /bin/busybox sleep "$@"\n'
    layer = _tar({
        "bin/busybox": (0o755, busybox),
        "bin/sleep": (0o755, sleep),
        "www/index.html": (0o644, f"{PAGE}\n".encode()),
        "etc/passwd": (0o644, b"root:x:0:0:root:/:/bin/sh\n"),
    })  # fmt: skip
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": list(SERVE), "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [NAME], "Layers": ["layer.tar"]}]
    return _tar({
        "layer.tar": (0o644, layer),
        "config.json": (0o644, json.dumps(config).encode()),
        "manifest.json": (0o644, json.dumps(manifest).encode()),
    })  # fmt: skip


def _tar(files: dict[str, tuple[int, bytes]]) -> bytes:
    """A tar of files by their paths, each its mode and content, with the directories above them."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as packed:
        for directory in sorted({path.rpartition("/")[0] for path in files} - {""}):
            entry = tarfile.TarInfo(directory)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            packed.addfile(entry)
        for path, (mode, content) in files.items():
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(content), mode
            packed.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()
