#!/bin/bash
# bridge link set state blocking ends with 0 and leaves the port forwarding; disabled, listening and learning stay.
. "$(dirname "$0")/lib/question.sh"
. "$LIB/guests.sh"
outside && enter_with /bin/ip iproute2=6.1.0-3
state() { bridge link show dev "$1" | grep -o 'state [a-z]*'; }
set_state() { # set_state STATE: what becomes of the port, and whether its guest is reached by the other
    bridge link set dev vother state "$1" || echo "exit $?"
    printf '%s, the guest %s' "$(state vother)" "$(reach 10.0.0.3)"
}

version "$(ip -V), Linux $(uname -r)" "ip utility, iproute2-6.1.0, libbpf 1.1.2, Linux $(uname -r)"
question "A guest is to be cut off without taking its device down: bridge link set dev PORT state blocking, on a bridge without
          STP. Is it? And how long is a port cut off that was listening when STP was turned off?"
expected "It is, as with disabled; and not at all, since nothing runs that would wait."

make_guests
seen "at first" "$(state vother), the guest $(reach 10.0.0.3)" "state forwarding, the guest answers"
seen "state blocking" "$(set_state blocking)" "state forwarding, the guest answers"
seen "state disabled" "$(set_state disabled)" "state disabled, the guest is silent"
seen "state blocking, after that" "$(set_state blocking)" "state forwarding, the guest answers"
seen "state listening" "$(set_state listening)" "state listening, the guest is silent"
seen "state learning" "$(set_state learning)" "state learning, the guest is silent"
seen "state forwarding" "$(set_state forwarding)" "state forwarding, the guest answers"
ip link set br0 type bridge stp_state 1
ip link set vother down
ip link set vother up
wait_for eval '[ "$(state vother)" = "state listening" ]'
ip link set br0 type bridge stp_state 0
sleep 5
seen "5 s after STP was turned off" "$(state vother), the guest $(reach 10.0.0.3)" "state listening, the guest is silent"
sleep 28
seen "33 s after it" "$(state vother), the guest $(reach 10.0.0.3)" "state forwarding, the guest answers"
finish
