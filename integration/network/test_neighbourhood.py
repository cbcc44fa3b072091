"""hvtx beside real daemons, each started by its own unit under a real systemd: the whole table.

`tox -e neighbours` runs all rows in both orders and writes the table; the ordinary run has a sample.
One row: `tox -e neighbours -- -k docker-nft`.
"""

from __future__ import annotations

import pytest

from integration.lab.neighbourhood import fixtures, table
from integration.lab.neighbourhood.cell import ORDERS, Cell
from integration.lab.neighbourhood.host import Host
from integration.lab.neighbourhood.rows import NEIGHBOURS

SAMPLE = ("nftables", "neighbour first")  # without its reload: seconds
CELLS = [(name, order) for name in NEIGHBOURS for order in ORDERS]
WANTED = CELLS if fixtures.ALL else [SAMPLE]
layers, here = fixtures.layers, fixtures.here


@pytest.mark.parametrize(
    ("row", "order"), WANTED, ids=[f"{row}-{order.replace(' ', '-')}" for row, order in WANTED]
)
def test_a_neighbour(here: Host, row: str, order: str) -> None:
    neighbour = NEIGHBOURS[row] if fixtures.ALL else NEIGHBOURS[row]._replace(acts=())
    seen = Cell(here, neighbour, order).run()
    if fixtures.ALL:
        table.keep(seen)
    assert not seen.faults, "\n\n".join(seen.faults)
