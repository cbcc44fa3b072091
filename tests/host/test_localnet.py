"""The setting by which 127.0.0.1 reaches guests is written where it is another, and not else."""

from __future__ import annotations

import errno

import pytest

from hvtx.errors import HostRefused, NotPermitted
from hvtx.host import localnet, sysctl

PATH = "net/ipv4/conf/hvnet/route_localnet"


class Kernel:
    """Settings, and what of them was written."""

    def __init__(self, patch: pytest.MonkeyPatch, there: dict[str, str], code: int = 0) -> None:
        self.there = there
        self.written: list[tuple[str, str]] = []

        def value(name: str) -> str:
            if name not in there:
                raise FileNotFoundError(errno.ENOENT, "no such setting")
            return there[name]

        def write(name: str, wanted: str) -> None:
            if code:
                raise OSError(code, "refused")
            self.written.append((name, wanted))

        patch.setattr(sysctl, "value", value)
        patch.setattr(sysctl, "write", write)


@pytest.mark.parametrize(("was", "on"), [("0", True), ("1", False), ("0", False), ("1", True)])
def test_what_is_so_already_is_not_written(
    was: str, on: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = Kernel(monkeypatch, {PATH: was})
    assert localnet.leads_loopback("hvnet") == (was == "1")
    localnet.lead_loopback("hvnet", on=on)
    assert kernel.written == ([] if (was == "1") == on else [(PATH, "1" if on else "0")])


def test_a_bridge_that_is_gone_has_nothing_to_be_turned_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Kernel(monkeypatch, {})
    assert not localnet.leads_loopback("hvnet")
    localnet.lead_loopback("hvnet", on=False)
    with pytest.raises(HostRefused, match="bridge hvnet is gone"):
        localnet.lead_loopback("hvnet", on=True)


@pytest.mark.parametrize(("code", "error"), [(errno.EROFS, NotPermitted), (errno.EIO, HostRefused)])
def test_what_cannot_be_written_is_told(
    code: int, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    Kernel(monkeypatch, {PATH: "0"}, code)
    with pytest.raises(error, match=r"net\.ipv4\.conf\.hvnet\.route_localnet"):
        localnet.lead_loopback("hvnet", on=True)
