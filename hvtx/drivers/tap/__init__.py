"""TAP devices: published by their last call, deleted only by attaching.

Making: the device is made non-persistent (it lives as long as our descriptor), marked, enslaved and
brought up in one message, and only then made persistent. A SIGKILL before that last call removes
it; after it, it is marked. Of several devices sixteen are made at a time, so that what each is
given goes to the kernel in one call; none of these persists before all of them are marked.

A persistent device without an owner is open to every local user who may open ``/dev/net/tun``, so
each gets one: its VM's own, or for a VM whose process is not another user's than hvtx, or not
started by hvtx, ``tap_user`` of the settings.

Each has filters of its own that hold the guest to its addresses, and apart from its neighbours
where they are isolated, also when all rules are flushed (:mod:`filters`).

A port is in hairpin mode: where br_netfilter is on, a guest reaches its own published port only so
(the translated frame leaves by the port that it came in by).

Removing: RTM_DELLINK would succeed on a device that a VM holds, and cut the VM. TUNSETIFF with the
device's own flags is the lock instead: EBUSY while a VM holds it, and while we hold it no VM can
attach. On the held device index and mark are checked, then it is made non-persistent and let go.
Every unregistered device waits for RCU (15-19 ms) outside of RTNL, so removals run in threads.

=============  =====================================================================
errno          means
=============  =====================================================================
EBUSY          making: the name or index exists; removing: somebody holds the device
EINVAL         the flags are not the device's: it was changed, look again
ENOENT         /dev/net/tun is missing; ENODEV: no tun in this kernel
EXFULL         the bridge has its 1,023 ports
EPERM          no CAP_NET_ADMIN
=============  =====================================================================

:mod:`driver` is what the engine calls; :mod:`making` makes; :mod:`filters` are those that hold the
guest; :mod:`removal` attaches, judges and removes; :mod:`standing` says what of others keeps one.
"""
