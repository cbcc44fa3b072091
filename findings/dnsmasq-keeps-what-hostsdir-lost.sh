#!/bin/bash
# A reservation whose file left dnsmasq's dhcp-hostsdir goes on, and its lease outlives the reload.
. "$(dirname "$0")/lib/question.sh"
. "$LIB/dnsmasq.sh"
outside && enter_with_dnsmasq_and_a_guest
make_bridge
mkdir hosts
echo 52:54:00:00:00:0a,10.9.0.10 >hosts/a
version_of_dnsmasq
question "A VM with a reservation of its own file in --dhcp-hostsdir takes its address and is removed,
          file and all; the next VM is given the address by a file of its own. Who is given what: at
          once, after SIGHUP, after a restart (no lease file is kept)?"
expected "The directory is watched: the first VM gets no answer, the second the address. At the
          latest after SIGHUP, which reads all reservations again."

serve() {
    serve_guests --dhcp-range=10.9.0.0,static,255.255.255.0,infinite --dhcp-hostsdir="$FOLDER/hosts" \
        --leasefile-ro --dhcp-authoritative
}
first() { lease 52:54:00:00:00:0a; }
second() { lease 52:54:00:00:00:0b; }

serve
wait_for grep -q "read .*hosts/a" log
seen "the first VM" "$(first)" 10.9.0.10
rm hosts/a
echo 52:54:00:00:00:0b,10.9.0.10 >hosts/b
wait_for grep -q "hosts/b new or modified" log
seen "its file is gone" "$(first)" 10.9.0.10
seen "the second VM" "$(second)" "no answer"
kill -HUP "$served"
wait_for sh -c '[ "$(grep -c "cleared cache" log)" -ge 2 ] || [ "$(grep -c "read .*hosts/b" log)" -ge 2 ]'
seen "after SIGHUP, the first" "$(first)" "no answer"
seen "after SIGHUP, the second" "$(second)" "no answer"
seen "its log" "$(sed -n 's/.*: \(not using configured address.*\)/\1/p' log | tail -1)" \
    "not using configured address 10.9.0.10 because it is leased to 52:54:00:00:00:0a"
kill "$served"
wait "$served" || true
serve
wait_for sh -c '[ "$(grep -c "started, version" log)" -ge 2 ]'
sleep 0.3
seen "after a restart, the second (the way out)" "$(second)" 10.9.0.10
kill "$served"
wait "$served" || true
serve
wait_for sh -c '[ "$(grep -c "started, version" log)" -ge 3 ]'
sleep 0.3
seen "after another, for its own address" "$(lease 52:54:00:00:00:0b 10.9.0.10)" ACK
finish
