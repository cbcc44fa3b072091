"""Whether vhost-net works: what stands at its path is asked, and nothing is concluded without."""

from __future__ import annotations

import fcntl
import struct
from pathlib import Path

import pytest

from hvtx.host import vhost


def test_what_is_not_vhost_net_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Missing, shut, a file, another device."""
    (tmp_path / "file").touch()
    for path in (tmp_path / "gone", tmp_path / "file", tmp_path, Path("/dev/null")):
        monkeypatch.setattr(vhost, "DEVICE", str(path))
        assert not vhost.works()


@pytest.mark.parametrize(("features", "works"), [(1 << 27 | 1 << 15, True), (1 << 15, False)])
def test_it_is_asked_for_its_features(
    monkeypatch: pytest.MonkeyPatch, features: int, works: bool
) -> None:
    """Other devices of vhost answer the same question."""
    monkeypatch.setattr(vhost, "DEVICE", "/dev/null")
    asked = []

    def answer(_descriptor: int, request: int, _argument: bytes) -> bytes:
        asked.append(request)
        return struct.pack("=Q", features)

    monkeypatch.setattr(fcntl, "ioctl", answer)
    assert vhost.works() is works
    assert asked == [0x8008AF00]
