# The modules, for type checkers: `__init__.py` imports each when it is first used.

from hvtx.commands import (
    adopt as adopt,
)
from hvtx.commands import (
    cluster_forget as cluster_forget,
)
from hvtx.commands import (
    cluster_register as cluster_register,
)
from hvtx.commands import (
    cluster_status as cluster_status,
)
from hvtx.commands import (
    cni_add as cni_add,
)
from hvtx.commands import (
    cni_check as cni_check,
)
from hvtx.commands import (
    cni_del as cni_del,
)
from hvtx.commands import (
    cni_gc as cni_gc,
)
from hvtx.commands import (
    cni_install as cni_install,
)
from hvtx.commands import (
    cni_status as cni_status,
)
from hvtx.commands import (
    doctor as doctor,
)
from hvtx.commands import (
    explain as explain,
)
from hvtx.commands import (
    gc as gc,
)
from hvtx.commands import (
    gc_heuristic as gc_heuristic,
)
from hvtx.commands import (
    gc_installation as gc_installation,
)
from hvtx.commands import (
    import_state as import_state,
)
from hvtx.commands import (
    metrics as metrics,
)
from hvtx.commands import (
    network_create as network_create,
)
from hvtx.commands import (
    network_rm as network_rm,
)
from hvtx.commands import (
    network_set as network_set,
)
from hvtx.commands import (
    publish_view as publish_view,
)
from hvtx.commands import (
    published_view as published_view,
)
from hvtx.commands import (
    recover as recover,
)
from hvtx.commands import (
    repair as repair,
)
from hvtx.commands import (
    show as show,
)
from hvtx.commands import (
    show_history as show_history,
)
from hvtx.commands import (
    show_networks as show_networks,
)
from hvtx.commands import (
    store_backup as store_backup,
)
from hvtx.commands import (
    systemd as systemd,
)
from hvtx.commands import (
    vm_apply as vm_apply,
)
from hvtx.commands import (
    vm_attach as vm_attach,
)
from hvtx.commands import (
    vm_create as vm_create,
)
from hvtx.commands import (
    vm_set as vm_set,
)
from hvtx.commands import (
    vm_start as vm_start,
)
from hvtx.commands import (
    vm_start_many as vm_start_many,
)
from hvtx.commands import (
    vm_stop as vm_stop,
)
from hvtx.commands import (
    vm_stop_many as vm_stop_many,
)
