#!/bin/bash
# In etcd's transactions a key that is not there has no value that is unequal to anything, but a version that is.
. "$(dirname "$0")/lib/question.sh"
outside && enter_with /usr/bin/etcd etcd-server=3.4.23-4+b4 iproute2=6.1.0-3
"$ROOT/bin/ip" link set lo up
"$ROOT/usr/bin/etcd" --data-dir "$FOLDER/data" --listen-client-urls http://127.0.0.1:2379 \
    --advertise-client-urls http://127.0.0.1:2379 --listen-peer-urls http://127.0.0.1:2380 >log 2>&1 &
cat >ask.py <<'P'
"""ask.py CALL JSON: keys and values are given as text; prints whether the condition held."""
import base64, json, sys, urllib.request

def coded(value):
    if isinstance(value, list):
        return [coded(one) for one in value]
    if not isinstance(value, dict):
        return value
    return {
        key: base64.b64encode(one.encode()).decode() if key in ("key", "value", "rangeEnd") else coded(one)
        for key, one in value.items()
    }

body = json.dumps(coded(json.loads(sys.argv[2]))).encode()
answer = json.load(urllib.request.urlopen("http://127.0.0.1:2379/v3/" + sys.argv[1], body, 5))
print("holds" if answer.get("succeeded") else "does not hold")
P
ask() { python3 ask.py "$@"; }
holds() { # holds KEY CONDITION: whether it does, in a transaction that does nothing
    ask kv/txn '{"compare": [{"key": "'"$1"'", '"$2"'}]}'
}
unequal='"target": "VALUE", "result": "NOT_EQUAL", "value": "host1"'
wait_for ask kv/range '{"key": "owner"}'
ask kv/put '{"key": "owner", "value": "host2"}' >put
ask kv/put '{"key": "empty", "value": ""}' >put

version "$("$ROOT/usr/bin/etcd" --version | head -1)" "etcd Version: 3.4.23"
question "A host takes an address over unless it is host1's: if the value of the key is not 'host1', put. Nobody has the
          key yet. Does the condition hold?"
expected "It holds: what is not there is not 'host1', as for a key whose value is empty."

seen "value != host1, the key is host2's" "$(holds owner "$unequal")" "holds"
seen "value != host1, the value is empty" "$(holds empty "$unequal")" "holds"
seen "value != host1, no such key" "$(holds free "$unequal")" "does not hold"
seen "value = '', no such key" "$(holds free '"target": "VALUE", "result": "EQUAL", "value": ""')" "does not hold"
seen "version != 5, no such key" "$(holds free '"target": "VERSION", "result": "NOT_EQUAL", "version": "5"')" "holds"
seen "created at revision 0, no such key (the way to ask)" \
    "$(holds free '"target": "CREATE", "result": "EQUAL", "createRevision": "0"')" "holds"
seen "value != host1, of a range with no key in it" "$(holds free "$unequal, \"rangeEnd\": \"frei\"")" "does not hold"
finish
