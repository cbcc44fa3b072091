#!/bin/bash
# An element of a set with a timeout is added again: its time does not begin anew, and nothing says so.
. "$(dirname "$0")/lib/question.sh"
outside && enter_with_nft 1.0.6-2+deb12u2
nft() { "$ROOT/usr/sbin/nft" "$@"; }

version "$(nft --version | cut -d' ' -f1,2)" "nftables v1.0.6"
question "dnsmasq --nftset adds the address of a name to a set each time its server tells it (\`add element\`).
          The set has a timeout of an hour. Does an address that is told again stay for another hour?"
expected "Yes, as with ipset, where adding an entry again begins its time anew; or an error."

nft add table inet t
nft add set inet t s '{ type ipv4_addr; timeout 1h; }'
left() { nft list set inet t s | sed -n 's/.*expires \([0-9]*m\).*/\1/p'; }
nft add element inet t s '{ 192.0.2.1 expires 10m }'
nft add element inet t s '{ 192.0.2.1 }'
seen "exit of the second \`add element\`" "$?" "0"
seen "what is left of the hour, after 50 minutes and the second" "$(left)" "9m"
finish
