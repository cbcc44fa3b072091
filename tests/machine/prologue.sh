#!/usr/bin/env bash
# What a script of the machine needs before its first line: put the printed lines behind this, and
# run it as root in a checkout. It works in a network namespace and a directory of its own. The exit
# code of each hvtx goes to standard error. Needs ip, nft, jq, python3.
if [ -z "${HVTX_MACHINE_INSIDE:-}" ]; then
    HVTX_MACHINE_INSIDE=1 exec unshare --net --mount --propagation private bash "$0" "$@"
fi
set -u
python=${PYTHON:-python3}
top=${TOP:-$PWD}
place=$(mktemp -d)
cd "$place" || exit 1
mkdir state run
export PYTHONPATH=$top HVTX_STATE_DIR=$place/state HVTX_RUN_DIR=$place/run HVTX_CONFIG=$place/config.toml
export HVTX_FIREWALL=nftables HVTX_LOCK_TIMEOUT=0 HVTX_VERIFY=1 XTABLES_LOCKFILE=$place/xtables.lock
touch config.toml
cat /proc/sys/kernel/random/uuid >boot_id
mount --bind boot_id /proc/sys/kernel/random/boot_id
ip link set lo up
declare -A holders=() bound=() boxes=()
guests=()
lost=()

program() { # a runtime's verbs are the library's
    local module=hvtx
    [ "$1" = attachments ] && module=tests.machine.attachment_verbs && shift
    exec "$python" -m "$module" "$@"
}
hvtx() {
    (program "$@")
    local code=$?
    [ "$code" -eq 137 ] && code=-9
    echo "exit $code" >&2
}
midst() { # stopped at its failpoint, or ended before it
    program "$@" &
    midst=$!
    for _ in $(seq 1000); do
        case $(sed 's/.*) //; s/ .*//' "/proc/$midst/stat" 2>/dev/null) in T | Z | '') break ;; esac
        sleep 0.02
    done
}
go_on() {
    kill -CONT "$midst" 2>/dev/null
    wait "$midst"
    local code=$?
    echo "exit $code" >&2
}
quiet() { "$python" -m hvtx "$@" 2>/dev/null; }
ports() { quiet vm show "$1" --json | jq -r "[.resources[] | select(.kind == \"tap\" or .kind == \"veth\")][${2:-0}].$3"; }
device() { ports "$1" "${2:-0}" key; }
mark() { ports "$1" "${2:-0}" mark; }
pid() { quiet vm show "$1" --json | jq -r .pid; }
bridge() { quiet network show "$1" --json | jq -r .bridge; }
table() { nft list tables inet | sed -n 's/.*\(hvtx-[a-z2-7]*\)$/\1/p' | head -n 1; }

hold() { # of one that is there
    ip -o link | grep -qF "$1" || return 0
    "$python" -c "
import fcntl, os, struct, sys, time
d = os.open('/dev/net/tun', os.O_RDWR)
fcntl.ioctl(d, 0x400454CA, struct.pack('16sH22x', sys.argv[1].encode(), 0x1002))
open(sys.argv[2], 'w').close()
time.sleep(86400)" "$1" "held.$1" 2>/dev/null &
    holders[$1]=$!
    for _ in $(seq 250); do
        [ -e "held.$1" ] || ! kill -0 "${holders[$1]}" 2>/dev/null && break
        sleep 0.02
    done
}
let_go() { [ -n "${holders[$1]:-}" ] && kill -9 "${holders[$1]}"; }
bind() {
    "$python" -c "
import socket, sys, time
s = socket.create_server(('0.0.0.0', int(sys.argv[1])))
open('bound', 'w').close()
time.sleep(86400)" "$1" &
    bound[$1]=$!
    while [ ! -e bound ]; do sleep 0.02; done
    rm bound
}
unbind() {
    [ -n "${bound[$1]:-}" ] && kill -9 "${bound[$1]}" && wait "${bound[$1]}" 2>/dev/null
    unset "bound[$1]"
}
guest() {
    sleep 86400 &
    guest=$!
    guests+=("$guest")
}
contain() { # with an id that another one had, where one is given
    unshare -n sleep 86400 &
    boxes[$1]=$!
    while [ "$(readlink "$(netns "$1")")" = "$(readlink /proc/self/ns/net)" ]; do sleep 0.02; done
    [ -z "${2:-}" ] || "$python" -c "
import sys
from hvtx.host import network_namespace, nsid
with nsid.ids() as ids, network_namespace.opened(sys.argv[1]) as there:
    ids.give(there, int(sys.argv[2]))" "$(netns "$1")" "$2"
}
netns() { echo "/proc/${boxes[$1]}/ns/net"; }
uncontain() {
    kill -9 "${boxes[$1]}" && wait "${boxes[$1]}" 2>/dev/null
    unset "boxes[$1]"
    sleep 0.5 # the kernel takes the host's ends of pairs away a moment later
}
recycle() { echo "# the kernel gives pid $1 again: only the fake world can ask for that"; }
processes() { grep -lsz "^HVTX_VM=" /proc/[0-9]*/environ | while read -r found; do
    found=${found%/environ}
    [ "$(readlink "$found/ns/net")" = "$(readlink /proc/self/ns/net)" ] && echo "${found#/proc/}"
done; }
leave() {
    local all
    mapfile -t all < <(processes)
    kill -9 "${all[@]}" "${guests[@]}" "${holders[@]}" "${bound[@]}" "${boxes[@]}" 2>/dev/null
    wait 2>/dev/null
    guests=() holders=() bound=() boxes=()
}
reboot() { # nothing is left of this life but the disk
    leave
    nft flush ruleset
    while lost=$(ip -o link | sed -n 's/^[0-9]*: \([^:@]*\).*/\1/p' | grep -vx lo | head -n 1) && [ -n "$lost" ]; do
        ip link del "$lost"
    done
    rm -rf run
    cat /proc/sys/kernel/random/uuid >boot_id
}
copy() { "$python" -c "
import sqlite3, sys
one, other = map(sqlite3.connect, sys.argv[1:])
one.backup(other)
other.close(), one.close()" "$@"; }
backup() { rm -f backup.db && copy state/hvtx.db backup.db; }
old_store() { rm -f newest.db && copy state/hvtx.db newest.db && put_back backup.db; }
new_store() { put_back newest.db; }
put_back() { rm -f state/hvtx.db-wal state/hvtx.db-shm && cat "$1" >state/hvtx.db; }
trap leave EXIT
