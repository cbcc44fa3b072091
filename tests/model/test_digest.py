"""A digest is hashlib's, whichever module makes it."""

from __future__ import annotations

import hashlib
import sys

import pytest

from hvtx.model import digest


@pytest.mark.parametrize("data", [b"", b"abc", bytes(range(256)) * 9])
@pytest.mark.parametrize("missing", [(), ("_sha256",), ("_sha256", "_sha2")])
def test_the_digest_is_that_of_hashlib(
    data: bytes, missing: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = hashlib.sha256(data).hexdigest()
    for name in missing:
        monkeypatch.setitem(sys.modules, name, None)
    digest._made.cache_clear()
    assert digest.sha256(data) == wanted
    digest._made.cache_clear()
