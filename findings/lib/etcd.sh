# shellcheck shell=bash
# Sourced after question.sh by what is asked of etcd over its JSON gateway.

enter_with_etcd() { # with etcd and ip
    enter_with /usr/bin/etcd etcd-server=3.4.23-4+b4 iproute2=6.1.0-3
}

version_of_etcd() {
    version "$("$ROOT/usr/bin/etcd" --version | head -1)" "etcd Version: 3.4.23"
}

ask() { # ask CALL JSON: see etcd_ask.py
    python3 "$LIB/etcd_ask.py" "$@"
}

answers() { ask kv/range '{"key": "any"}' | grep -q '^200 '; }

start_etcd() { # an empty one; returns once it answers
    "$ROOT/bin/ip" link set lo up
    "$ROOT/usr/bin/etcd" --data-dir "$FOLDER/data" --listen-client-urls http://127.0.0.1:2379 \
        --advertise-client-urls http://127.0.0.1:2379 --listen-peer-urls http://127.0.0.1:2380 >log 2>&1 &
    wait_for answers
}
