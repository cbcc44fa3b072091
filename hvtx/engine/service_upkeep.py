"""The services of networks run: what is missing or dead is started again."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from hvtx.engine import network_service, notice
from hvtx.engine.runtime import Runtime, Settings
from hvtx.engine.scope import all_networks
from hvtx.engine.shut_in import starts_vms
from hvtx.engine.unsettled import resolved_networks
from hvtx.errors import HvtxError
from hvtx.host.files import is_there
from hvtx.model.resource import is_changing
from hvtx.model.service import service_spec
from hvtx.planner import service
from hvtx.planner.scope import NetworkScope


def ensure(runtime: Runtime, scope: NetworkScope) -> None:
    """Start the services that are missing or dead; a network without one is said, and goes on.

    Nothing is started in the sandbox of a unit, which it would keep: `recover` has it done outside.
    """
    if starts_vms():
        return
    if is_changing(row for row in scope.rows if row.network in scope.networks):
        with runtime.held("all", "networks"):  # a change was interrupted: it is carried through
            only = scope.networks.keys()
            scope = resolved_networks(runtime, all_networks(runtime, only), only)
    for row in scope.services():
        network = scope.networks.get(row.network or "")
        if network is None:
            continue
        lost = not is_there(service_spec(row)["directory"])  # somebody emptied the run directory
        if lost or network_service.is_dead(row):
            again = network_service.put_back if lost else network_service.renew
            missed = partial(network_service.is_on_record, runtime.read, row)
            _start_again(network.name, partial(again, runtime, row), missed, lost=lost)
    if service.unserved(scope):
        with runtime.held("all", "networks"):
            for name, why in network_service.supply(runtime, scope.networks.values()).items():
                if why:
                    notice.warning(f"network {name} has no DHCP and DNS: {why}")


def _start_again(
    name: str, again: Callable[[], bool], missed: Callable[[], bool], *, lost: bool
) -> None:
    """Start a network's service again, and say so, unless another command was quicker.

    ``lost``: its directory is gone. ``missed``: not one that is being removed meanwhile.
    """
    try:
        started = again()
    except HvtxError as problem:
        if missed():
            notice.warning(f"network {name} has no DHCP and DNS: {problem.message}")
        return
    if started:
        what = "its files were gone" if lost else "it had ended"
        notice.note(f"the dnsmasq of network {name} is started again: {what}")


def serve_outside(settings: Settings, scope: NetworkScope) -> None:
    """Have services that do not run started by systemd, if this run is shut in. Raises HostRefused.

    No lock may be held that `hvtx repair` takes.
    """
    if starts_vms() and (
        service.unserved(scope)
        or any(
            network_service.is_dead(r) or not is_there(service_spec(r)["directory"])
            for r in scope.services()
        )
    ):
        from hvtx.engine import autostart

        autostart.serve(settings)
