"""etcd_ask.py CALL JSON: a call of etcd's gateway; keys and values are given as text.

Prints the HTTP status, then "succeeded" or nothing and the values, or the error.
"""

import base64
import json
import sys
import urllib.error
import urllib.request

GATEWAY = "http://127.0.0.1:2379/v3/"
CODED = ("key", "value", "rangeEnd")


def coded(value):
    if isinstance(value, list):
        return [coded(one) for one in value]
    if not isinstance(value, dict):
        return value
    return {
        key: base64.b64encode(one.encode()).decode() if key in CODED else coded(one)
        for key, one in value.items()
    }


try:
    body = json.dumps(coded(json.loads(sys.argv[2]))).encode()
    answer = json.load(urllib.request.urlopen(GATEWAY + sys.argv[1], body, 5))
    kept = [base64.b64decode(kv.get("value", "")).decode() for kv in answer.get("kvs", [])]
    print(200, "succeeded" if answer.get("succeeded") else "", *kept)
except urllib.error.HTTPError as problem:
    print(problem.code, json.load(problem)["error"])
