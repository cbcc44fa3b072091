"""`hvtx.api.sets`: what is asked for by name, as the command line's files ask for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hvtx.api import sets
from hvtx.engine.files import read_believed_plan
from hvtx.errors import NotPermitted, UsageError


def test_a_network_is_what_its_command_would_make() -> None:
    asked: Any = sets.asked_network("lab", {"subnets": ["10.77.0.0/24"], "egress": "none"})
    assert (asked.name, asked.subnets, asked.mtu) == ("lab", ("10.77.0.0/24",), 1500)
    assert (asked.nat, asked.isolate, asked.policy.egress) == (True, False, "none")


def test_a_vm_is_what_its_command_would_make() -> None:
    asked = sets.asked_vm("web", {"networks": ["lab"], "command": ["sleep", "9"], "memory": 512})
    assert (asked.name, asked.memory, asked.command) == ("web", 512, ("sleep", "9"))


@pytest.mark.parametrize(
    ("ask", "options"),
    [
        (sets.asked_network, {"subnets": ["10.77.0.0/33"]}),
        (sets.asked_network, {"subnets": "10.77.0.0/24"}),
        (sets.asked_vm, {"command": ["sleep"], "memory": 0}),
        (sets.asked_vm, {"command": ["sleep"], "allow": "192.0.2.1"}),
    ],
)
def test_what_could_never_be_is_refused(ask: Any, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        ask("web", options)


def test_a_set_in_a_directory_of_others_is_refused(tmp_path: Path) -> None:
    """Whoever may write the directory may put another file in its place: it says what root starts."""
    shared = tmp_path / "shared"
    shared.mkdir(0o755)
    (shared / "vms.toml").write_text("[vms.web]\n")
    (shared / "vms.toml").chmod(0o600)
    assert sets.read_set(str(shared / "vms.toml")) == b"[vms.web]\n"
    shared.chmod(0o777)
    with pytest.raises(NotPermitted, match=str(shared)):
        sets.read_set(str(shared / "vms.toml"))
    with pytest.raises(NotPermitted, match=str(shared)):
        read_believed_plan(str(shared / "vms.toml"))
