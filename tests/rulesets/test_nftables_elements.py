"""Elements that stand for rows: what the kernel keeps of them, and what is refused."""

from __future__ import annotations

import pytest

from hvtx.errors import UsageError
from hvtx.host.nfmessages import verdict
from hvtx.host.nfnumbers import ACCEPT, GOTO
from hvtx.rulesets.nftables_elements import pieces, unplaced

NETWORK = {"what": "network", "bridge": "hvbr0", "nat": False, "isolate": False}


@pytest.mark.parametrize(
    ("isolate", "wanted"), [(False, verdict(ACCEPT)), (True, verdict(GOTO, "isolated"))]
)
def test_verdicts_are_encoded_as_nf_tables_has_them(isolate: bool, wanted: bytes) -> None:
    (within,) = (p for p in unplaced(NETWORK | {"isolate": isolate}) if p.set == "within")
    assert (within.data, within.verdict) == (wanted, True)


def test_elements_are_put_into_the_table_of_the_installation() -> None:
    assert {piece.table for piece in pieces("0123456789", NETWORK)} == {"hvtx-0123456789"}


@pytest.mark.parametrize("name", ["", "sixteen-letters-"])
def test_a_name_that_no_device_can_have_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="cannot be the name"):
        unplaced(NETWORK | {"bridge": name})


def test_a_base_row_has_no_elements() -> None:
    assert unplaced({"what": "base"}) == []
