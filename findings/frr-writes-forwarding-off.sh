#!/bin/bash
# FRR saves the kernel's forwarding as if it had been configured: read again, it turns forwarding off.
. "$(dirname "$0")/lib/question.sh"
if outside; then
    prepare
    deb frr=8.4.4-1.1~deb12u2 libyang2=2.1.30-2 libc-ares2=1.18.1-3 iproute2=6.1.0-3
    export LD_LIBRARY_PATH=$FOLDER/root/usr/lib/x86_64-linux-gnu:$FOLDER/root/usr/lib/x86_64-linux-gnu/frr
    libraries /usr/lib/frr/zebra
    libraries /usr/lib/frr/staticd
    libraries /usr/bin/vtysh
    enter
fi
ip() { "$ROOT/bin/ip" "$@"; }
# its users, PAM service and file, in an /etc of this namespace's own
mount -t tmpfs tmpfs /var/tmp
mount -t tmpfs tmpfs /mnt
mkdir /mnt/upper /mnt/work /run/frr
mount -t overlay -o lowerdir=/etc,upperdir=/mnt/upper,workdir=/mnt/work overlay /etc
mkdir -p /etc/frr /etc/pam.d
printf '%s\n' frrvty:x:5990:root frr:x:5991: >>/etc/group
echo frr:x:5991:5991::/:/bin/false >>/etc/passwd
printf '%s sufficient pam_permit.so\n' auth account >/etc/pam.d/frr
echo "service integrated-vtysh-config" >/etc/frr/vtysh.conf
daemon() { # daemon NAME
    "$ROOT/usr/lib/frr/$1" -u root -g root -d --vty_socket /run/frr -i "/run/frr/$1.pid" -z /run/frr/zserv.api \
        -f /dev/null -A 127.0.0.1 >"$1.log" 2>&1
}
vtysh() { "$ROOT/usr/bin/vtysh" --vty_socket /run/frr "$@" 2>&1; }
forwarding() { echo "$(cat /proc/sys/net/ipv4/ip_forward) $(cat /proc/sys/net/ipv6/conf/all/forwarding)"; }
lines() { grep -o '.*forwarding' | paste -sd '|'; }
ip link set lo up
daemon zebra
daemon staticd
wait_for vtysh -c 'show version'

version "$(vtysh -c 'show version' | head -1 | cut -d' ' -f1,2)" "FRRouting 8.4.4"
question "FRR runs with an empty configuration. Its administrator adds one static route and says 'write memory'. Later
          somebody turns forwarding on, for VMs. What does FRR's file hold, and what does it do when it is read again, as at
          each restart (vtysh -b)?"
expected "It holds the route, which is all that was configured. Forwarding is not FRR's, and stays on."

vtysh -c 'configure terminal' -c 'ip route 10.5.0.0/24 blackhole'
seen "forwarding, IPv4 and IPv6" "$(forwarding)" "0 0"
vtysh -c 'write memory' >written
seen "in the file" "$(lines </etc/frr/frr.conf)" "no ip forwarding|no ipv6 forwarding"
echo 1 >/proc/sys/net/ipv4/ip_forward
echo 1 >/proc/sys/net/ipv6/conf/all/forwarding
seen "turned on by somebody" "$(forwarding)" "1 1"
seen "what FRR says now that it runs with" "$(vtysh -c 'show running-config' | lines)" ""
vtysh -b >read || true
seen "once the file was read again" "$(forwarding)" "0 0"
kill "$(cat /run/frr/zebra.pid)" "$(cat /run/frr/staticd.pid)"
finish
