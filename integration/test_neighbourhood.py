"""hvtx beside real daemons, each started by its own unit under a real systemd: the whole table.

`tox -e neighbours` runs all rows in both orders and writes the table; the ordinary run has a sample
where the image is made already. One row: `tox -e neighbours -- -k docker-nft`.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration.neighbourhood import host, image, table
from integration.neighbourhood.cell import ORDERS, Cell
from integration.neighbourhood.rows import NEIGHBOURS

SAMPLE = ("nftables", "neighbour first")
CELLS = [(name, order) for name in NEIGHBOURS for order in ORDERS]
WANTED = CELLS if os.environ.get("HVTX_NEIGHBOURS") == "all" else [SAMPLE]


@pytest.fixture(scope="module")
def layer() -> Iterator[Path]:
    """hvtx installed over the image of the neighbours' host."""
    if os.geteuid() != 0:
        pytest.skip("needs root: namespaces")
    if not image.path().exists():
        pytest.skip("the image is not made: python -m integration.neighbourhood.image")
    place = Path(tempfile.mkdtemp(prefix="hvtx-layer-"))
    try:
        host.layer(place)
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


@pytest.mark.parametrize(
    ("row", "order"), WANTED, ids=[f"{row}-{order.replace(' ', '-')}" for row, order in WANTED]
)
def test_a_neighbour(layer: Path, row: str, order: str) -> None:
    with host.booted(layer) as here:
        seen = Cell(here, NEIGHBOURS[row], order).run()
    table.keep(seen)
    assert not seen.faults, "\n\n".join(seen.faults)
