"""hvtx: a transactional manager for the network resources of virtual machines.

As a library::

    from hvtx import Host

    with Host() as host:
        host.vm.start("web")

What ``__all__`` names is public, and kept as docs/library.md says; nothing else is. Importing this
loads none of it, prints nothing and configures nothing.
"""

import sys

UNBUILT = "0.2.0"  # of a checkout that nobody has installed; `fallback_version` in pyproject.toml

# name -> module, with the name in it where that is another
_AT = {
    **dict.fromkeys(("Host", "Diagnosis"), "hvtx.api"),
    **dict.fromkeys(("Vms", "VmLog", "Each"), "hvtx.api.vms"),
    "Clusters": "hvtx.api.clusters",
    **dict.fromkeys(("ClusterStatus", "ShownRoute"), "hvtx.commands.cluster_status"),
    "Forgotten": "hvtx.commands.cluster_forget",
    "Registered": "hvtx.commands.cluster_register",
    **dict.fromkeys(("Block", "BlockStep", "Held", "Member"), "hvtx.model.block"),
    "Networks": "hvtx.api.networks",
    "Plans": "hvtx.api.plans",
    "Sets": "hvtx.api.sets",
    "Stores": "hvtx.api.stores",
    **dict.fromkeys(("Units", "Printed"), "hvtx.api.units"),
    **dict.fromkeys(("CniPlugin", "PrintedPlugin"), "hvtx.api.cni_plugin"),
    **dict.fromkeys(
        ("VmOptions", "VmChanges", "NetworkOptions", "NetworkChanges"), "hvtx.api.options"
    ),
    **dict.fromkeys(
        ("HvtxError", "UsageError", "NotFound", "Conflict", "NotPermitted", "HostRefused"),
        "hvtx.errors",
    ),
    **dict.fromkeys(
        ("StoreError", "StalePlan", "PartialFailure", "Busy", "Refused"), "hvtx.errors"
    ),
    "SetReport": "hvtx.commands.vm_apply:Report",
    "SetItem": "hvtx.commands.vm_apply:Done",
    "SetStep": "hvtx.model.described:Step",
    "SetDifference": "hvtx.model.described:Difference",
    **dict.fromkeys(("ShownVm", "ShownInterface"), "hvtx.commands.show"),
    "ShownNetwork": "hvtx.commands.show_networks",
    "ShownOperation": "hvtx.commands.show_history",
    "AsOf": "hvtx.commands.published_view",
    "Gauge": "hvtx.commands.metrics",
    "Recovery": "hvtx.commands.recover",
    **dict.fromkeys(("Copied", "Restored"), "hvtx.commands.store_backup"),
    "UnitsOutcome": "hvtx.commands.systemd:Outcome",
    "PluginOutcome": "hvtx.commands.cni_install:Outcome",
    **dict.fromkeys(("Explanation", "OnRecord"), "hvtx.engine.explained"),
    "Finding": "hvtx.engine.finding",
    "GcReport": "hvtx.engine.gc_plan:Report",
    **dict.fromkeys(("Adopted", "Import", "ImportedThing", "ImportedVm"), "hvtx.engine.imported"),
    "RefusedCount": "hvtx.engine.refusals:Refused",
    "Repair": "hvtx.engine.repaired",
    "HistoryLine": "hvtx.model.history:Line",
    **dict.fromkeys(("Action", "Item", "Plan"), "hvtx.model.plan"),
    "Reason": "hvtx.model.reason",
    "Result": "hvtx.model.plan",
    "Guest": "hvtx.model.guest",
    **dict.fromkeys(("Egress", "EgressRule"), "hvtx.model.policy"),
    "Resource": "hvtx.model.resource",
    **dict.fromkeys(("Publish", "Vm"), "hvtx.model.vm"),
    "VmState": "hvtx.planner.states",
}
__all__ = [
    "Action",
    "Adopted",
    "AsOf",
    "Block",
    "BlockStep",
    "Busy",
    "ClusterStatus",
    "Clusters",
    "CniPlugin",
    "Conflict",
    "Copied",
    "Diagnosis",
    "Each",
    "Egress",
    "EgressRule",
    "Explanation",
    "Finding",
    "Forgotten",
    "Gauge",
    "GcReport",
    "Guest",
    "Held",
    "HistoryLine",
    "Host",
    "HostRefused",
    "HvtxError",
    "Import",
    "ImportedThing",
    "ImportedVm",
    "Item",
    "Member",
    "NetworkChanges",
    "NetworkOptions",
    "Networks",
    "NotFound",
    "NotPermitted",
    "OnRecord",
    "PartialFailure",
    "Plan",
    "Plans",
    "PluginOutcome",
    "Printed",
    "PrintedPlugin",
    "Publish",
    "Reason",
    "Recovery",
    "Refused",
    "RefusedCount",
    "Registered",
    "Repair",
    "Resource",
    "Restored",
    "Result",
    "SetDifference",
    "SetItem",
    "SetReport",
    "SetStep",
    "Sets",
    "ShownInterface",
    "ShownNetwork",
    "ShownOperation",
    "ShownRoute",
    "ShownVm",
    "StalePlan",
    "StoreError",
    "Stores",
    "Units",
    "UnitsOutcome",
    "UsageError",
    "Vm",
    "VmChanges",
    "VmLog",
    "VmOptions",
    "VmState",
    "Vms",
    "__version__",
]


def __getattr__(name: str) -> object:
    """A public name, imported when it is first asked for: most commands never ask."""
    if name == "__version__":
        value: object = _built()
    elif name in _AT:
        module, _, attribute = _AT[name].partition(":")
        value = _named(module, attribute or name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names."""
    return list(__all__)


def _built() -> str:
    try:
        return str(_named("hvtx._version", "__version__"))
    except ImportError:
        return UNBUILT


def _named(module: str, attribute: str) -> object:
    __import__(module)
    return getattr(sys.modules[module], attribute)
