#!/bin/bash
# What conntrack -L -o save prints and conntrack -R reads has zones, timeouts and NAT, and no marks.
. "$(dirname "$0")/lib/question.sh"
outside && enter_with /usr/sbin/conntrack conntrack=1:1.4.7-1+b2 libnetfilter-conntrack3=1.0.9-3 libnfnetlink0=1.0.2-2
conntrack() { "$ROOT/usr/sbin/conntrack" "$@" 2>/dev/null; }
flow() { conntrack -L | grep -o 'src=10.9.9.9.*\(mark\|zone\)=[0-9]*'; }

version "$(conntrack --version)" "conntrack v1.4.7 (conntrack-tools)"
question "Flows of guests carry marks (by which they are routed, or limited). They are saved before a change, and read back
          after it: conntrack -L -o save, conntrack -R. What do they carry?"
expected "Their marks, as they have their zone and their translation."

conntrack -I -p udp -s 10.0.0.1 -d 192.0.2.1 --sport 5 --dport 53 -t 100 --dst-nat 10.9.9.9:53 -m 7 -w 3
seen "before" "$(flow)" "src=10.9.9.9 dst=10.0.0.1 sport=53 dport=5 mark=7 zone=3"
conntrack -L -o save >saved
seen "saved" "$(grep -o -e '-w 3' -e '-g 10.9.9.9' -e '-m [0-9]*' -e '--mark [0-9]*' saved | paste -sd' ')" "-w 3 -g 10.9.9.9"
conntrack -F
conntrack -R saved
seen "conntrack -R, exit code" "$?" 0
seen "after" "$(flow)" "src=10.9.9.9 dst=10.0.0.1 sport=53 dport=5 mark=0 zone=3"
finish
