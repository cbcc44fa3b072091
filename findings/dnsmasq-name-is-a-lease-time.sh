#!/bin/bash
# In dnsmasq's reservations a host name that looks like a time or a keyword is not a name.
. "$(dirname "$0")/lib/question.sh"
. "$LIB/dnsmasq.sh"
outside && enter_with_dnsmasq_and_a_guest
make_bridge
cat >hosts <<X
52:54:00:00:00:01,10.9.0.11,web
52:54:00:00:00:02,10.9.0.12,101
52:54:00:00:00:03,10.9.0.13,2d
52:54:00:00:00:04,10.9.0.14,ignore
52:54:00:00:00:05,10.9.0.15,102.vm.test
X
version_of_dnsmasq
question "Lines MAC,ADDRESS,NAME of a dhcp-hostsfile for VMs called web, 101, 2d and ignore (each a
          valid host name, RFC 1123). Which address, lease time and name does each guest get?"
expected "Its address, the range's hour and its name: the third field is where the name stands."

serve_guests --dhcp-range=10.9.0.50,10.9.0.99,1h --dhcp-hostsfile="$FOLDER/hosts" --dhcp-leasefile="$FOLDER/leases" \
    --domain=vm.test
wait_for grep -q "read .*hosts" log
seen web "$(lease_in_full 52:54:00:00:00:01)" "10.9.0.11 3600 s web"
seen 101 "$(lease_in_full 52:54:00:00:00:02)" "10.9.0.12 120 s without a name"
seen 2d "$(lease_in_full 52:54:00:00:00:03)" "10.9.0.13 172800 s without a name"
seen ignore "$(lease_in_full 52:54:00:00:00:04)" "no answer"
seen "102.vm.test (the way out)" "$(lease_in_full 52:54:00:00:00:05)" "10.9.0.15 3600 s 102"
finish
