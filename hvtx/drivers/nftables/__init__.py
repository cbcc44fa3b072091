"""The nftables backend: one skeleton per installation, elements per VM and network.

Elements go in by one atomic batch and come out by compare-and-swap: read the generation, read each
element with its comment, delete only those whose comment is the row's mark, in a batch that the
kernel refuses if anything changed in between. The socket is kept open for the driver's life, since
closing one after deletions waits some 14 ms for the kernel's RCU.

:mod:`driver` is what the engine calls; :mod:`session` reads and acts under one generation,
:mod:`tables` makes and repairs an installation's tables, :mod:`release` removes, :mod:`exchange`
puts elements in the place of others, :mod:`passages` puts accepts of ours into chains of others.

:mod:`expected` has the entries that stand for a row, :mod:`lacking` tells which rows do not stand,
each looked up by its keys. :mod:`whole` reads all that concerns an installation: rules as entries
(:mod:`ruleset`), elements of our own tables as bytes (:mod:`own_elements`). :mod:`judging` decides
over what was read.
"""

from hvtx.drivers.nftables.driver import NftablesDriver
from hvtx.drivers.nftables.tables import outdated

__all__ = ["NftablesDriver", "outdated"]
