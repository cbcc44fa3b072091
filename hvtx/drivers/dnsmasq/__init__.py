"""dnsmasq, one process for each network, and the table that it fills with addresses of names.

:mod:`driver` starts and ends the process; :mod:`serving` tells who it is; :mod:`names_table` makes,
looks at and removes the table, for the few networks in which a policy allows names.
"""

from hvtx.drivers.dnsmasq.driver import DnsmasqDriver
from hvtx.drivers.dnsmasq.serving import end, of_installation

__all__ = ["DnsmasqDriver", "end", "of_installation"]
