"""Whether there may be a filter of others that guests have to pass: a look that costs little.

Most hosts have no table `filter` of iptables at all; what then follows is not even loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from hvtx.errors import HostRefused, NotPermitted
from hvtx.host import xtnames

TABLE = "filter"
FIREWALLD = ("inet", "firewalld")
_FAMILIES = frozenset({"ip", "ip6"})


def there_may_be(tables: Callable[[], Collection[tuple[str, str]]]) -> bool:
    """Whether iptables has a table `filter` here, or firewalld its own; no, where nobody may look.

    ``tables`` lists family and name of those of nf_tables. Raises HvtxError.
    """
    try:
        if any(TABLE in xtnames.listed(family) for family in xtnames.TOOLS):
            return True
    except (NotPermitted, HostRefused):
        pass  # who may not look there may not change it
    try:
        known = tables()
    except NotPermitted:
        return False
    return FIREWALLD in known or any(f in _FAMILIES and name == TABLE for f, name in known)
