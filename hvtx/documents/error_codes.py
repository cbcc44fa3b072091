"""Words of `error.code` that no class of :mod:`hvtx.errors` has: docs/json.md is made of them.

No command imports this. ``tests/documents/test_error_codes.py`` compares it with the source.
"""

from __future__ import annotations

# the exit codes of the error that has the word, and what it means
WORDS = {
    "blocks-doubted": ((75,), "the store is an older copy, and the cluster was not asked since"),
    "bug": ((1,), "a mistake in hvtx; `--debug` before the command shows where"),
    "cannot-observe": ((6,), "the host's rules cannot be read"),
    "cluster-unreachable": ((75,), "no endpoint of etcd answers"),
    "cluster-unreadable": ((6,), "etcd has something under the prefix that hvtx did not write"),
    "constraint": ((4,), "the record refuses it: something else took it meanwhile"),
    "declined": ((1,), "a person was asked, and said no"),
    "interrupted": ((130, 143, 129), "a signal ended it: Ctrl-C, SIGTERM, SIGHUP"),
    "memory": ((1,), "out of memory"),
    "network-damaged": ((6,), "of the CNI plugin's STATUS: what is attached suffers, too"),
    "network-differs": ((4,), "the cluster has a network of this name with other values"),
    "no-libnftables": ((6,), "libnftables cannot be loaded"),
    "no-namespace": ((2, 3), "what is named is no network namespace"),
    "no-systemd": ((6,), "systemctl is missing"),
    "no-tun": ((6,), "/dev/net/tun is missing or does not open"),
    "store-full": ((7,), "the disk of the store is full"),
}
