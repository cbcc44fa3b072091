"""The policy and the last rule of chain FORWARD."""

from __future__ import annotations

from hvtx.host import xtblob
from hvtx.model.firewall import firewall_spec
from hvtx.model.resource import Resource


def place_in_forward(resource: Resource) -> str:
    """Where a row `pass` has its jump in FORWARD: ``last``, ``before`` rules of others, ``gone``.

    Raises NotPermitted, HostRefused.
    """
    end = xtblob.forward_end(firewall_spec(resource)["family"])
    mark = b"\0%b\0" % resource.mark.encode()
    return "last" if mark in end.last else "before" if mark in end.rules else "gone"


def drops_by_policy(family: int) -> bool:
    """Whether what no rule of FORWARD has decided is dropped. Raises NotPermitted, HostRefused."""
    return xtblob.forward_end(family).policy != "ACCEPT"
