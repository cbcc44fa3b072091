"""What is to be reached: the rows of the comparison of two commits, and who is measured."""

from __future__ import annotations

from typing import NamedTuple

from bench import measure as m
from bench.inside.traffic import FLOWS

OURS = "hvtx, nftables"


class Asked(NamedTuple):
    """One row of what is to be reached, in the words of the comparison."""

    figure: str
    vms: tuple[int, ...]  # () is every number
    goal: str
    floor: bool = False  # whether multiples of the floor are told


ASKED = (
    Asked(m.START, (), "x floor: 3.0 at 0, 2.0 at 1,000, 1.5 at 5,000", floor=True),
    Asked(m.START + m.PROCESSOR, (), ""),
    Asked(m.STOP, (), "x floor: 1.2", floor=True),
    Asked(m.STOP + m.PROCESSOR, (), ""),
    Asked(m.PLAN, (), "x floor: 2.0 at 1,000 and 5,000", floor=True),
    Asked(m.PLAN + m.PROCESSOR, (), ""),
    Asked("hvtx gc --plan --json", (), "0.4 of before at 5,000; 2 x floor at 500", floor=True),
    Asked("hvtx gc --plan --json" + m.PEAK, (), "0.5 of before at 5,000"),
    Asked("hvtx vm start", (), "0.65 of before; 1.25 x floor", floor=True),
    Asked("hvtx vm start" + m.PROCESSOR, (), "", floor=True),
    Asked("hvtx vm stop", (), "0.65 of before"),
    Asked("hvtx vm stop" + m.PROCESSOR, (), ""),
    Asked("hvtx vm show", (), ""),
    Asked("hvtx vm ls", (), "0.4 of before at 5,000"),
    Asked("hvtx explain", (), "150 ms whatever the number"),
    Asked("hvtx explain" + m.PEAK, (), ""),
    Asked("hvtx vm start, iptables", (), "1.3 x floor, which is nftables'", floor=True),
    Asked("hvtx vm stop, iptables", (), "1.3 x floor, which is nftables'", floor=True),
    Asked("hvtx vm start, processor, iptables", (), "", floor=True),
    Asked("hvtx vm stop, processor, iptables", (), "", floor=True),
    Asked(m.MADE, (), "1.5 of before, flat to 5,000"),
    Asked(m.LATE, (), ""),
    Asked(m.MADE_USED, (), ""),
    Asked(m.SEVERAL + "start", (), ""),
    Asked(m.SEVERAL + "stop", (), ""),
    Asked(m.COLLECTED, (), "800, flat"),
    Asked(m.COLLECTED_USED, (), ""),
    Asked(m.RESTARTED + "hvtx vm ls", (), "350 ms at 5,000"),
    Asked(m.RESTARTED + "hvtx vm show", (), "350 ms at 5,000"),
    *(Asked(f"{flow}, iptables", (), "0.9 of plain", floor=True) for flow in FLOWS),
    Asked(m.SIZE, (), "25 MB after 20,000 cycles"),
    Asked(m.SIZE_A_CYCLE, (), ""),
    Asked(m.RECOVER, (), "80 ms after 20,000 cycles"),
    Asked(m.BOOT, (), "3,000 ms at 1,000"),
    Asked(m.BOOT + m.PROCESSOR, (), ""),
    Asked(m.FIRST, (), ""),
)
