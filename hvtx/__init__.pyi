# The public names, for type checkers: `__init__.py` imports each when it is first asked for.

from hvtx.api import Diagnosis, Host
from hvtx.api.clusters import Clusters
from hvtx.api.cni_plugin import CniPlugin, PrintedPlugin
from hvtx.api.networks import Networks
from hvtx.api.options import NetworkChanges, NetworkOptions, VmChanges, VmOptions
from hvtx.api.plans import Plans
from hvtx.api.sets import Sets
from hvtx.api.stores import Stores
from hvtx.api.units import Printed, Units
from hvtx.api.vms import Each, VmLog, Vms
from hvtx.commands.cluster_forget import Forgotten
from hvtx.commands.cluster_register import Registered
from hvtx.commands.cluster_status import ClusterStatus, ShownRoute
from hvtx.commands.cni_install import Outcome as PluginOutcome
from hvtx.commands.metrics import Gauge
from hvtx.commands.published_view import AsOf
from hvtx.commands.recover import Recovery
from hvtx.commands.show import ShownInterface, ShownVm
from hvtx.commands.show_history import ShownOperation
from hvtx.commands.show_networks import ShownNetwork
from hvtx.commands.store_backup import Copied, Restored
from hvtx.commands.systemd import Outcome as UnitsOutcome
from hvtx.commands.vm_apply import Done as SetItem
from hvtx.commands.vm_apply import Report as SetReport
from hvtx.engine.explained import Explanation, OnRecord
from hvtx.engine.finding import Finding
from hvtx.engine.gc_plan import Report as GcReport
from hvtx.engine.imported import Adopted, Import, ImportedThing, ImportedVm
from hvtx.engine.refusals import Refused as RefusedCount
from hvtx.engine.repaired import Repair
from hvtx.errors import (
    Busy,
    Conflict,
    HostRefused,
    HvtxError,
    NotFound,
    NotPermitted,
    PartialFailure,
    Refused,
    StalePlan,
    StoreError,
    UsageError,
)
from hvtx.model.block import Block, BlockStep, Held, Member
from hvtx.model.described import Difference as SetDifference
from hvtx.model.described import Step as SetStep
from hvtx.model.guest import Guest
from hvtx.model.history import Line as HistoryLine
from hvtx.model.plan import Action, Item, Plan, Result
from hvtx.model.policy import Egress, EgressRule
from hvtx.model.reason import Reason
from hvtx.model.resource import Resource
from hvtx.model.vm import Publish, Vm
from hvtx.planner.states import VmState

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

UNBUILT: str
__version__: str
