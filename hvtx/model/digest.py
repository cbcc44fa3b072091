"""A digest of a few bytes, without the library that hashlib loads for it (2 ms of a command)."""

from __future__ import annotations

from functools import cache

from hvtx.model.typed import Any


def sha256(data: bytes) -> str:
    """SHA-256 in hexadecimal digits."""
    digest: str = _made()(data).hexdigest()
    return digest


@cache
def _made() -> Any:
    """Python's own, called ``_sha256`` in 3.11 and ``_sha2`` since; OpenSSL's where it has none."""
    for name in ("_sha256", "_sha2"):
        try:
            return __import__(name).sha256
        except ImportError:
            continue
    return __import__("hashlib").sha256
