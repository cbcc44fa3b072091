"""The seed of a VM: what cloud-init in its guest reads at boot, as a small disk image.

It is a NoCloud data source (docs.cloud-init.io, "NoCloud"): a file system labelled ``cidata`` with
the files ``user-data``, ``meta-data`` and ``network-config``.
"""

from __future__ import annotations

from hvtx.model.typed import TYPE_CHECKING, Any, NotRequired, TypedDict, cast

if TYPE_CHECKING:
    from hvtx.model.resource import Resource
    from hvtx.model.vm import Vm

SEED = "seed.iso"  # its name in the VM's run-time directory
LABEL = "cidata"
ROLE = "seed"


def mark_path(path: str) -> str:
    """Where the mark of a run-time directory or of a seed stands: outside of what its VM writes."""
    above, _, name = path.rpartition("/")
    if name == SEED:  # VMs' directories have ids of hexadecimal digits for names
        above, _, own = above.rpartition("/")
        name = f"{own}.{SEED}"
    return f"{above.rpartition('/')[0]}/marks/{name}"


def directory_of(path: str) -> str:
    """The run-time directory that a path of a seed or of a directory is about."""
    above, _, name = path.rpartition("/")
    return above if name == SEED else path


def is_of_network(path: str) -> bool:
    """Whether a run-time directory is a network's, and not a VM's."""
    return path.rsplit("/", 2)[-2:-1] == ["networks"]


class SeedSpec(TypedDict):
    """The seed of one VM; what its user-data says is read when it is made, and is on no record."""

    path: str
    what: str  # ROLE
    user_data: str | None  # a file that goes in byte by byte; None: one without instructions
    meta_data: dict[str, Any]
    network_config: dict[str, Any]
    owner: NotRequired[int]  # whose file it becomes; absent where that is hvtx's own user
    group: NotRequired[int]


def has_seed(vm: Vm) -> bool:
    """Whether a VM is started with a seed."""
    return vm.has_seed


def is_seed(row: Resource) -> bool:
    """Whether a row of kind ``file`` is a seed, and not a run-time directory."""
    return row.role == ROLE


def seed_spec(row: Resource) -> SeedSpec:
    """The spec of a row of a seed."""
    assert is_seed(row), row
    return cast("SeedSpec", row.spec)
