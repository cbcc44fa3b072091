"""The iptables backend: rules in the legacy tables, for hosts whose own rules live there.

Chains per installation, each reached by a jump from the built-in chain::

    mangle  FORWARD      -> HVTX-<installation>-FWD    what is dropped, and nothing is accepted
    filter  FORWARD      -> HVTX-<installation>-PASS   the last rule, only where the policy drops
    nat     PREROUTING   -> HVTX-<installation>-PRE    only what is for the host itself
    nat     OUTPUT       -> HVTX-<installation>-OUT    likewise
    nat     POSTROUTING  -> HVTX-<installation>-POST

and, directly in INPUT and PREROUTING, what keeps each network from the host's 127.0.0.0/8, and each
guest to its number of connections (PREROUTING of ``mangle``).
What is dropped stands in a table of its own hook, before ``filter``, so that no accept of anybody
comes before it. What is accepted comes after all rules of others and answers their policy only
(docs/adr/0029); new flows of guests go on to ``HVTX-<installation>-WAY``, which names the devices
where the world is.

Every rule carries its row's mark as its comment. A rule is written in the very words of
``iptables-save`` (:class:`hvtx.rulesets.iptables_rules.Rule`), so that what is expected, what is
built and what is read back are one text. The IPv4 chains belong to the ``base`` row. The IPv6
chains are shared by the networks that have an IPv6 subnet: each brings its own jumps, and a chain
goes with the last of them, so that a host without IPv6 guests never gets IPv6 tables. A table that
once was used stays in the kernel, empty and with its policies as they were: it cannot be removed
from a network namespace.

Order inside PASS: rules of networks are put in front, rules of VMs behind. Within either group, and
in FWD, no order matters, so that any lost rule can be put back alone.

:mod:`driver` is what the engine calls; :mod:`hvtx.rulesets.iptables_rules` has what rows stand for,
:mod:`policy` how the host's FORWARD ends. :mod:`release` removes, :mod:`exchange` puts rules in the
place of others, :mod:`passages` puts accepts of ours into chains of others, :mod:`judging` decides
over what was read.
"""

from hvtx.drivers.iptables.driver import IptablesDriver
from hvtx.rulesets.iptables_rules import BACKEND, outdated

__all__ = ["BACKEND", "IptablesDriver", "outdated"]
