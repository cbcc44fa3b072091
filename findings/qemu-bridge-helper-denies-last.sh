#!/bin/bash
# In the list of qemu-bridge-helper the order says nothing: a "deny all" denies what is allowed before or behind it, too.
. "$(dirname "$0")/lib/question.sh"
outside && enter_with /usr/lib/qemu/qemu-bridge-helper qemu-system-common=1:7.2+dfsg-7+deb12u18+b3 iproute2=6.1.0-3
ip() { "$ROOT/bin/ip" "$@"; }
mount -t tmpfs tmpfs /mnt
mkdir -p /mnt/upper/qemu /mnt/work
mount -t overlay -o lowerdir=/etc,upperdir=/mnt/upper,workdir=/mnt/work overlay /etc
for bridge in br0 br1; do ip link add "$bridge" type bridge; done
cat >attach.py <<'P'
"""attach.py HELPER BRIDGE: as QEMU calls it; prints how it ends."""
import socket
import subprocess
import sys

ours, its = socket.socketpair()
words = [sys.argv[1], f"--br={sys.argv[2]}", f"--fd={its.fileno()}"]
done = subprocess.run(words, pass_fds=[its.fileno()], capture_output=True, text=True)
print(done.stderr.strip() or "a TAP")
P
listed() { # listed LINE...: what br0 and br1 get with these lines in /etc/qemu/bridge.conf
    printf '%s\n' "$@" >/etc/qemu/bridge.conf
    echo "$(python3 attach.py "$ROOT/usr/lib/qemu/qemu-bridge-helper" br0), $(
        python3 attach.py "$ROOT/usr/lib/qemu/qemu-bridge-helper" br1)"
}
no="access denied by acl file"

version "qemu-system-common $(zcat "$ROOT/usr/share/doc/qemu-system-common/changelog.Debian.gz" |
    sed -n '1s/.*(\(.*\)).*/\1/p')" \
    "qemu-system-common 1:7.2+dfsg-7+deb12u18"
question "Users may attach their VMs to br0 only. Which of 'deny all, allow br0' and 'allow br0, deny all' says so to
          qemu-bridge-helper?"
expected "One of the two: the first line that fits counts, or the last one does."

seen "allow br0" "$(listed 'allow br0')" "a TAP, $no"
seen "deny all, allow br0" "$(listed 'deny all' 'allow br0')" "$no, $no"
seen "allow br0, deny all" "$(listed 'allow br0' 'deny all')" "$no, $no"
seen "allow all, deny br1" "$(listed 'allow all' 'deny br1')" "a TAP, $no"
seen "allow br0 br1 (two names: none)" "$(listed 'allow br0 br1')" "$no, $no"
finish
