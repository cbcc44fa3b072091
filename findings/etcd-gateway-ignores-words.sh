#!/bin/bash
# etcd's JSON gateway passes over words that it does not know: a misspelt condition is none.
. "$(dirname "$0")/lib/question.sh"
outside && enter_with /usr/bin/etcd etcd-server=3.4.23-4+b4
ip link set lo up
"$ROOT/usr/bin/etcd" --data-dir "$FOLDER/data" --listen-client-urls http://127.0.0.1:2379 \
    --advertise-client-urls http://127.0.0.1:2379 --listen-peer-urls http://127.0.0.1:2380 >log 2>&1 &
cat >ask.py <<'P'
"""ask.py CALL JSON: keys and values are given as text."""
import base64, json, sys, urllib.error, urllib.request

def coded(value):
    if isinstance(value, list):
        return [coded(one) for one in value]
    if not isinstance(value, dict):
        return value
    return {
        key: base64.b64encode(one.encode()).decode() if key in ("key", "value") else coded(one)
        for key, one in value.items()
    }

try:
    body = json.dumps(coded(json.loads(sys.argv[2]))).encode()
    answer = json.load(urllib.request.urlopen("http://127.0.0.1:2379/v3/" + sys.argv[1], body, 5))
    kept = [base64.b64decode(kv.get("value", "")).decode() for kv in answer.get("kvs", [])]
    print(200, "succeeded" if answer.get("succeeded") else "", *kept)
except urllib.error.HTTPError as problem:
    print(problem.code, json.load(problem)["error"])
P
ask() { python3 ask.py "$@"; }
claim() { # claim WORD WORD VALUE: puts the value if nobody has the key, the two words spelt so
    ask kv/txn '{"'"$1"'": [{"key": "block", "target": "CREATE", "result": "EQUAL", "'"$2"'": "0"}],
        "success": [{"requestPut": {"key": "block", "value": "'"$3"'"}}]}'
}
value() { ask kv/range '{"key": "block"}'; }
wait_for ask kv/range '{"key": "block"}'

version "$("$ROOT/usr/bin/etcd" --version | head -1)" "etcd Version: 3.4.23"
question "Hosts claim a block by a transaction over JSON: if nobody has the key, put it. One of them writes 'compares'
          for 'compare', another 'createdRevision' for 'createRevision'. What does etcd answer, and whose is the block?"
expected "HTTP 400, unknown field, as for an unknown value; the block is the first one's."

seen "the first claim" "$(claim compare createRevision first)" "200 succeeded"
seen "a second one, spelt right" "$(claim compare createRevision second)" "200 "
seen "whose it is" "$(value)" "200  first"
seen "with an unknown value (target)" "$(ask kv/txn '{"compare": [{"target": "CREATED"}]}')" \
    '400 unknown value "CREATED" for enum etcdserverpb.Compare_CompareTarget'
seen "with 'createdRevision' (0 is the default)" "$(claim compare createdRevision third)" "200 "
seen "with 'compares'" "$(claim compares createRevision fourth)" "200 succeeded"
seen "whose it is" "$(value)" "200  fourth"
seen "a put with 'vlaue'" "$(ask kv/put '{"key": "block", "vlaue": "fifth"}')" "200 "
seen "what it put" "$(value)" "200  "
finish
