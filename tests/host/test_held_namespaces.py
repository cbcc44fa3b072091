"""Which mounts hold network namespaces."""

from __future__ import annotations

from hvtx.host.held_namespaces import mounted

MOUNTS = """\
24 30 0:22 / /proc rw,nosuid shared:13 - proc proc rw
701 24 0:4 net:[4026532201] /run/netns/cni-1 rw shared:5 - nsfs nsfs rw
702 24 0:4 net:[4026532301] /run/my\\040netns/b rw - nsfs nsfs rw
703 24 0:4 mnt:[4026532401] /run/snapd/ns/x.mnt rw - nsfs nsfs rw
704 24 0:99 net:[4026532501] /mnt/x rw - tmpfs tmpfs rw
"""


def test_mounts_of_network_namespaces_and_no_others() -> None:
    assert mounted(MOUNTS) == [
        ("net:[4026532201]", "/run/netns/cni-1"),
        ("net:[4026532301]", "/run/my netns/b"),
    ]
