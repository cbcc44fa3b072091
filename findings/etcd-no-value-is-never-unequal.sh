#!/bin/bash
# In etcd's transactions a key that is not there has no value that is unequal to anything, but a version that is.
. "$(dirname "$0")/lib/question.sh"
. "$LIB/etcd.sh"
outside && enter_with_etcd
holds() { # holds KEY CONDITION: whether it does, in a transaction that does nothing
    ask kv/txn '{"compare": [{"key": "'"$1"'", '"$2"'}]}' | sed 's/^200 succeeded$/holds/; s/^200 $/does not hold/'
}
unequal='"target": "VALUE", "result": "NOT_EQUAL", "value": "host1"'
start_etcd
ask kv/put '{"key": "owner", "value": "host2"}' >put
ask kv/put '{"key": "empty", "value": ""}' >put

version_of_etcd
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
