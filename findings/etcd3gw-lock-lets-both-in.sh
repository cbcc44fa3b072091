#!/bin/bash
# "with client.lock(…)" of etcd3gw goes on at once, without the lock and without an error, where another host has it.
. "$(dirname "$0")/lib/question.sh"
. "$LIB/etcd.sh"
if outside; then
    prepare
    deb etcd-server=3.4.23-4+b4 iproute2=6.1.0-3
    libraries /usr/bin/etcd
    pip etcd3gw==2.7.0
    enter
fi
cat >lock.py <<'P'
"""Hosts that share an etcd each take the lock before they make a network."""
import time
from importlib.metadata import version

import etcd3gw

def locked():
    return etcd3gw.client(host="127.0.0.1", port=2379).lock("lan", ttl=30)

def told(lock):
    when = "at once" if time.monotonic() - began < 10 else "after a while"
    return f"{when}, is_acquired() is {lock.is_acquired()}"

print("version: etcd3gw", version("etcd3gw"))
began = time.monotonic()
with locked() as first:
    print("first:", told(first))
    with locked() as second:
        print("second:", told(second))
    print("acquire:", locked().acquire())
    print("later:", told(first))
with locked() as fourth:
    print("fourth:", told(fourth))
P
start_etcd
"$PYTHON" lock.py >said
line() { sed -n "s/^$1: //p" said; }
version_of_etcd
version "$(line version)" "etcd3gw 2.7.0"
question "Two hosts share an etcd and do a piece of work under 'with client.lock(\"lan\", ttl=30):'. The first is at it. What
          becomes of the second?"
expected "It waits until the first is ready; or an exception says that it did not get the lock."
seen "the first begins" "$(line first)" "at once, is_acquired() is True"
seen "the second begins beside it" "$(line second)" "at once, is_acquired() is False"
seen "what acquire() returns then" "$(line acquire)" "False"
seen "the first, after the second left" "$(line later)" "at once, is_acquired() is True"
seen "another, after the first left" "$(line fourth)" "at once, is_acquired() is True"
finish
