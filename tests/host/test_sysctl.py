"""What a kernel setting is, and what is not known of it."""

from __future__ import annotations

import errno

import pytest

from hvtx.host import sysctl


def test_a_setting_that_there_is_not_is_none() -> None:
    assert sysctl.known("net/ipv6/conf/all/no_such_setting") is None
    assert sysctl.read("net/ipv6/conf/all/no_such_setting") is None


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.EPERM, errno.EMFILE])
def test_one_that_cannot_be_read_is_not_taken_for_one_that_is_not_there(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a network would be said to be up without the setting that it needs."""

    def refuse(_: str) -> str:
        raise OSError(number, "refused")

    monkeypatch.setattr(sysctl, "value", refuse)
    assert sysctl.read("net/ipv4/ip_forward") is None
    with pytest.raises(OSError, match="refused"):
        sysctl.known("net/ipv4/ip_forward")
