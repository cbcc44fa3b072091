"""Ids of namespaces: what a dump lacks is asked for by itself, and errors prove nothing."""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator

import pytest

from hvtx.host import nsid
from hvtx.host.netlink import KernelError, attribute, attribute_map


def told(number: int) -> bytes:
    return bytes(4) + attribute(1, struct.pack("=i", number))


class Channel:
    """A kernel whose dump passes over some ids, and which refuses to tell of others."""

    def __init__(self, living: set[int], missed: set[int], refused: set[int]) -> None:
        self.living, self.missed, self.refused = living, missed, refused
        self.dumps = 0
        self.asked: list[int] = []

    def dump(self, kind: int, body: bytes) -> list[bytes]:
        assert (kind, body) == (nsid.GETNSID, bytes(4))
        self.dumps += 1
        return [told(number) for number in sorted(self.living - self.missed)]

    def get(self, kind: int, body: bytes) -> bytes:
        number: int = struct.unpack("=i", attribute_map(body, 4)[1])[0]
        self.asked.append(number)
        if number in self.refused:
            raise KernelError(errno.EINVAL, "not asked for so")
        if number not in self.living:
            raise KernelError(errno.ENOENT, "no such id")
        return told(number)

    def close(self) -> None:
        pass


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[Channel]:
    made = Channel({1, 2, 3}, {2}, {9})
    monkeypatch.setattr(nsid, "Channel", lambda family: made)
    yield made


def test_one_dump_answers_and_what_it_lacks_is_asked_again(kernel: Channel) -> None:
    with nsid.ids() as ids:
        assert ids.there({1, 2, 3, 7}) == {1, 2, 3}
    assert kernel.dumps == 1
    assert sorted(kernel.asked) == [2, 7]


def test_nothing_is_asked_where_nothing_is_wanted(kernel: Channel) -> None:
    with nsid.ids() as ids:
        assert ids.there(set()) == set()
    assert kernel.dumps == 0


def test_an_error_is_no_proof(kernel: Channel) -> None:
    """A kernel before 4.20 cannot be asked for one id: nothing is dead for that."""
    with nsid.ids() as ids, pytest.raises(OSError, match="not asked"):
        ids.there({9})
