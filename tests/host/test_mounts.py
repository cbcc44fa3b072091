"""File systems that a store must not, or had better not, lie on."""

from __future__ import annotations

import os

import pytest

from hvtx.engine.checks.own import judge_filesystem
from hvtx.host.mounts import Place, filesystem_of, find_mount, find_place, mounted
from hvtx.host.trust import find_mounter, mounter_of

MOUNTS = r"""22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
23 22 0:5 / /proc rw - proc proc rw
24 22 0:30 / /var/lib rw shared:2 master:1 - nfs4 server:/x rw,vers=4.2
25 24 0:31 / /var/lib/hv\040tx rw - tmpfs tmpfs rw
26 22 8:2 / /srv rw - xfs /dev/sdb rw
27 22 0:32 / /srv rw - overlay overlay rw
28 22 0:40 / /home/a rw,nosuid shared:9 - fuse.sshfs a@b:/c rw,user_id=1000,group_id=100,allow_other
29 22 0:41 / /srv/g rw - fuse.glusterfs g:/v rw,user_id=0,group_id=0
30 22 0:42 / /t rw - tmpfs user_id=7 rw,user_id=7
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


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("/etc/x", Place("8:1", "/etc/x")),
        ("/", Place("8:1", "/")),
        ("/var/lib/hv tx/vms/a", Place("0:31", "/of/it/vms/a")),
        ("/var/lib/hv tx", Place("0:31", "/of/it")),
        ("/srv/vms (deleted)", Place("0:32", "/vms (deleted)")),
    ],
)
def test_a_place_is_told_by_its_file_system(path: str, place: Place) -> None:
    assert find_place(MOUNTS.replace("0:31 / ", "0:31 /of/it "), path) == place


def test_where_a_file_system_is_mounted() -> None:
    assert mounted(MOUNTS, "0:31") == ("/var/lib/hv tx",)
    assert mounted(MOUNTS, "0:5") == ("/proc",)
    assert mounted("", "0:5") == ()


def test_where_no_mount_is_known_there_is_no_place() -> None:
    assert find_place("", "/x") is None


def test_the_kernel_is_asked() -> None:
    assert filesystem_of("/proc/self/status") == "proc"
    assert mounter_of(os.stat("/proc").st_dev) is None


@pytest.mark.parametrize(
    ("device", "user"),
    [("0:40", 1000), ("0:41", None), ("0:42", None), ("8:1", None), ("0:4", None)],
)
def test_who_mounted_what_any_user_can_mount(device: str, user: int | None) -> None:
    assert find_mounter(MOUNTS, device) == user


@pytest.mark.parametrize(
    ("kind", "level"),
    [("nfs4", "error"), ("9p", "error"), ("cifs", "error"), ("tmpfs", "warning"),
     ("overlay", "warning"), ("ext4", None), ("xfs", None), ("", None)],
)  # fmt: skip
def test_doctor_tells_where_a_store_does_not_last(kind: str, level: str | None) -> None:
    found = list(judge_filesystem("/s/hvtx.db", kind))
    assert [finding.level for finding in found] == ([level] if level else [])
    assert all(finding.hint and finding.evidence == (kind,) for finding in found)
