"""File systems that a store must not, or had better not, lie on."""

from __future__ import annotations

import pytest

from hvtx.engine.checks.own import judge_filesystem
from hvtx.host.mounts import filesystem_of, find_mount

MOUNTS = r"""22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
23 22 0:5 / /proc rw - proc proc rw
24 22 0:30 / /var/lib rw shared:2 master:1 - nfs4 server:/x rw,vers=4.2
25 24 0:31 / /var/lib/hv\040tx rw - tmpfs tmpfs rw
26 22 8:2 / /srv rw - xfs /dev/sdb rw
27 22 0:32 / /srv rw - overlay overlay rw
nonsense
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/etc/x", "ext4"),
        ("/var/lib/hvtx/hvtx.db", "nfs4"),
        ("/var/library", "ext4"),
        ("/var/lib/hv tx/hvtx.db", "tmpfs"),
        ("/srv/hvtx.db", "overlay"),
        ("/", "ext4"),
    ],
)
def test_the_longest_and_latest_mount_counts(path: str, kind: str) -> None:
    assert find_mount(MOUNTS, path)[0] == kind


def test_the_kernel_is_asked() -> None:
    assert filesystem_of("/proc/self/status") == "proc"


@pytest.mark.parametrize(
    ("kind", "level"),
    [("nfs4", "error"), ("9p", "error"), ("cifs", "error"), ("tmpfs", "warning"),
     ("overlay", "warning"), ("ext4", None), ("xfs", None), ("", None)],
)  # fmt: skip
def test_doctor_tells_where_a_store_does_not_last(kind: str, level: str | None) -> None:
    found = list(judge_filesystem("/s/hvtx.db", kind))
    assert [finding.level for finding in found] == ([level] if level else [])
    assert all(finding.hint and finding.evidence == (kind,) for finding in found)
