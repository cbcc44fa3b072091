"""The table of names of a network, which its dnsmasq fills: made, looked at, taken away.

Who may reach names stands in files of the network's directory, one for each interface, and in the
specification of its dnsmasq; the table is made of these whenever dnsmasq starts. It carries the
mark of the dnsmasq's row, and goes with it. What is loaded here only few networks need: the drivers
import it when they meet a name.
"""

from __future__ import annotations

import contextlib
import os
import time

from hvtx.drivers.base import Host
from hvtx.errors import ServiceRefused
from hvtx.host import forgotten, named_sets, paths
from hvtx.model.mark import Mark, parse_mark
from hvtx.model.policy import EgressRule
from hvtx.model.resource import Resource
from hvtx.model.service import service_spec
from hvtx.rulesets import dnsmasq, egress_names
from hvtx.rulesets.egress_names import Owner

_MOST = 1 << 24  # bytes of a file of ours
_AT_IT_SECONDS = 0.2


def owners(row: Resource) -> list[Owner]:
    """Who may reach names, as far as this network's dnsmasq is told. Raises OSError."""
    spec = service_spec(row)
    directory = os.path.join(spec["directory"], dnsmasq.EGRESS)
    found = []
    if "names" in spec:
        rules = tuple(EgressRule(*rule) for rule in spec["names"])  # type: ignore[arg-type]
        found.append(Owner(rules))
    try:
        files = sorted(os.listdir(directory))
    except FileNotFoundError:
        files = []
    for name in files:
        with contextlib.suppress(FileNotFoundError):
            owner = egress_names.read_file(_text(os.path.join(directory, name)))
            if owner is not None:
                found.append(owner)
    return found


def _text(path: str) -> str:
    return paths.read_regular(path, _MOST).decode(errors="replace")


def configuration(installation: str, row: Resource) -> list[str]:
    """What a dnsmasq is told of names. Raises OSError."""
    table = egress_names.table_of(installation, service_spec(row)["directory"])
    return egress_names.configuration(table, owners(row))


def fill(host: Host, row: Resource) -> None:
    """Make the table as these files have it: whole, in one batch; without any, none.

    Raises HostRefused, NotPermitted, Busy, OSError.
    """
    directory = service_spec(row)["directory"]
    with forgotten.locked(os.path.join(directory, dnsmasq.NAMED_LOCK), host.lock_timeout):
        _fill(egress_names.table_of(host.installation, directory), row, owners(row))


def _fill(table: str, row: Resource, wanted: list[Owner]) -> None:
    spec = service_spec(row)
    there = named_sets.read(table)
    if there is not None and there.comment != row.mark:
        raise ServiceRefused(
            f"{row.key} cannot fill table inet {table}: it carries {there.comment!r}",
            hint="somebody else made it, and whoever did takes it away: hvtx gc --plan --all",
        )
    path = os.path.join(spec["directory"], dnsmasq.NAMED)
    if not wanted:
        named_sets.removed(f"delete table inet {table}")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        return
    made = "" if there else f'create table inet {table} {{ comment "{row.mark}"; }}\n'
    chains, sets = (there.chains, there.sets) if there else ((), ())
    named_sets.run(made + egress_names.filled(table, spec["bridge"], wanted, chains, sets))
    as_made = named_sets.read(table)
    with open(f"{path}.new", "w", encoding="utf-8") as file:
        file.write("" if as_made is None else as_made.shape)
    os.rename(f"{path}.new", path)


def drop(installation: str, row: Resource) -> None:
    """Remove the table, if it is this row's. Raises HostRefused, NotPermitted."""
    table = egress_names.table_of(installation, service_spec(row)["directory"])
    there = named_sets.read(table)
    if there is not None and there.comment == row.mark:
        named_sets.removed(f"delete table inet {table}")


def missing(row: Resource) -> str | None:
    """What is wrong with the table of a service, in words; None if nothing is.

    It is looked at twice, since somebody may be at it. Raises HostRefused, NotPermitted.
    """
    if (found := _differs(row)) is not None:
        time.sleep(_AT_IT_SECONDS)
        found = _differs(row)
    return found


def _differs(row: Resource) -> str | None:
    mark, directory = parse_mark(row.mark), service_spec(row)["directory"]
    if not isinstance(mark, Mark):
        return None
    wanted = owners(row)
    if not wanted:
        return None
    try:
        shape = _text(os.path.join(directory, dnsmasq.NAMED))
    except OSError:
        shape = ""
    table = egress_names.table_of(mark.installation, directory)
    there = named_sets.read(table)
    if there is None:
        return f"table inet {table} was gone, and guests reached nothing by its name"
    leads = {owner.mac: egress_names.chain_of(owner) for owner in wanted if owner.mac}
    if there.comment != row.mark or there.shape != shape or there.leads != leads:
        return f"table inet {table} is not as it was made: what guests reach by names"
    return None
