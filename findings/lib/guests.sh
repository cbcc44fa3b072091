# shellcheck shell=bash
# Sourced after question.sh by what is asked of a bridge with guests.

ip() { "$ROOT/bin/ip" "$@"; }
bridge() { "$ROOT/sbin/bridge" "$@"; }

# make_guests [WORD VALUE...]: br0, made as these say; on its ports vguest and vother the namespaces guest (10.0.0.2) and
# other (10.0.0.3)
make_guests() {
    ip link add br0 "$@" type bridge
    ip link set br0 up
    local guest
    for guest in guest other; do
        ip netns add $guest
        ip link add v$guest type veth peer name eth0 netns $guest
        ip link set v$guest up master br0
        ip -n $guest link set eth0 up
    done
    ip -n guest addr add 10.0.0.2/24 dev eth0
    ip -n other addr add 10.0.0.3/24 dev eth0
}

reach() { # reach ADDRESS: whether it answers the namespace guest, by a port that nobody has
    ip netns exec guest python3 - "$1" <<'P'
import socket, sys
s = socket.socket()
s.settimeout(1.5)
try:
    s.connect((sys.argv[1], 9))
except ConnectionRefusedError:
    print("answers")
except OSError:
    print("is silent")
P
}
