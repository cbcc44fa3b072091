"""What a bridge's table says of guests, and the command that takes it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from hvtx.engine import own_addresses
from hvtx.model.vm import Interface, Vm

_MAC, _BRIDGE, _OWN, _OTHER = "02:00:00:00:00:05", 5, 7, 8
_NAMES = {_BRIDGE: "hvlan", _OWN: "hv-web", _OTHER: "keep me"}


class _Links:
    """A host whose bridge was told one thing for good."""

    def __init__(self, entry: tuple[int, bool]) -> None:
        self._entry = entry

    def close(self) -> None:
        """Nothing is open."""

    def fixed_in_bridges(self) -> list[tuple[int, int, str, bool]]:
        port, local = self._entry
        return [(_BRIDGE, port, _MAC, local), (_BRIDGE, _OTHER, "02:00:00:00:00:99", True)]

    def get(self, ifindex: int) -> Any:
        return SimpleNamespace(name=_NAMES[ifindex])


def _vm() -> Vm:
    interface = Interface(0, "n1", "lan", _MAC, "10.77.0.5", None, ())
    return SimpleNamespace(id="v1", name="web", interfaces=(interface,))  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("port", "local", "fix"),
    [
        (_OWN, True, f"bridge fdb del {_MAC} dev hv-web master"),
        (_OTHER, True, f"bridge fdb del {_MAC} dev 'keep me' master"),
        (_OTHER, False, f"bridge fdb del {_MAC} dev 'keep me' master"),
        (_BRIDGE, True, f"bridge fdb del {_MAC} dev hvlan self"),
        (_OWN, False, None),
    ],
)
def test_an_entry_is_taken_where_it_stands(
    monkeypatch: pytest.MonkeyPatch, port: int, local: bool, fix: str | None
) -> None:
    """The kernel takes one at the bridge itself only where that is said."""
    monkeypatch.setattr(own_addresses, "Links", lambda: _Links((port, local)))
    found = own_addresses.led_astray([_vm()], {"n1": (_BRIDGE, "hvlan")}, {("v1", "n1"): _OWN})
    assert [one.fix for one in found] == ([] if fix is None else [fix])
