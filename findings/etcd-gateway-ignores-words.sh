#!/bin/bash
# etcd's JSON gateway passes over words that it does not know: a misspelt condition is none.
. "$(dirname "$0")/lib/question.sh"
. "$LIB/etcd.sh"
outside && enter_with_etcd
claim() { # claim WORD WORD VALUE: puts the value if nobody has the key, the two words spelt so
    ask kv/txn '{"'"$1"'": [{"key": "block", "target": "CREATE", "result": "EQUAL", "'"$2"'": "0"}],
        "success": [{"requestPut": {"key": "block", "value": "'"$3"'"}}]}'
}
value() { ask kv/range '{"key": "block"}'; }
start_etcd

version_of_etcd
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
