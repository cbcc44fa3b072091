"""Whether there may be a filter of others that guests have to pass: a look that costs little.

Most hosts have no table `filter` of iptables at all; what then follows is not even loaded.
"""

from __future__ import annotations

import errno
from contextlib import closing

from hvtx.errors import HostRefused, NotPermitted
from hvtx.host import xtnames
from hvtx.host.nfnetlink import Nftables
from hvtx.host.retry import retry_transient

TABLE = "filter"
_FAMILIES = frozenset({"ip", "ip6"})
_NONE = frozenset({errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT, errno.EPERM, errno.EACCES})


def there_may_be() -> bool:
    """Whether iptables of either kind has a table `filter` here; no, where nobody may look.

    Raises OSError.
    """
    try:
        if any(TABLE in xtnames.listed(family) for family in xtnames.TOOLS):
            return True
    except (NotPermitted, HostRefused):
        pass  # who may not look there may not change it
    try:
        with closing(Nftables()) as socket:
            tables = retry_transient(socket.tables)
    except OSError as problem:
        if problem.errno in _NONE:
            return False
        raise
    return any(table.family in _FAMILIES and table.name == TABLE for table in tables)
