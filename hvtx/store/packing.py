"""What a line of the history says of a thing, made small: zlib with words that most have in common.

``COMMON`` is a part of the format and never edited: what was packed with it is read with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from hvtx.model import json_text
from hvtx.model.typed import Any
from hvtx.store.codec import legible

COMMON = (
    b'"addresses": [], "group": , "value": "1", "before": "0", "path": "net/ipv4/conf//forwarding",'
    b'"hypervisor": "external", "directory": null, "accelerator": "kvm", "restarts": 0, "user": 0,'
    b'"imported": true, "limit": {}, "owner": 0, "queues": 2, "kind": "base", "chains": , "rules": '
    b'{"mark":"hvtx:1:","spec":{"backend":"iptables","what":"passage","family":"ipv6",'
    b'{"mark":"hvtx:1:","spec":{"backend":"nftables","what":"masquerade","address":"10.","bridge":'
    b'"hvbr"},"observed":{"elements":1}}'
    b'{"mark":"hvtx:1:","spec":{"device":"hv","ifindex":,"bridge":"hvbr","master":,"mtu":1500,'
    b'"mac":"fe:","guard":{"mac":"02:","ipv4":"10.","ipv6":null,"gateway6":null,"apart":null}},'
    b'"observed":{"ifindex":,"mac":"fe:","guarded":true,"summed":true}}'
    b'{"mark":"hvtx:1:","spec":{"backend":"nftables","what":"port","device":"hv","mac":"02:",'
    b'"ipv4":"10.","ipv6":null,"bridge":"hvbr","gateway6":null,"forward":true,"isolate":false,'
    b'"flows":16384},"observed":{"elements":9}}'
    b'{"mark":"hvtx:1:","spec":{"backend":"nftables","what":"publish","protocol":"tcp",'
    b'"host_ip":null,"host_port":,"guest_port":80,"ipv4":"10.","ipv6":null,"bridge":"hvbr"},'
    b'"observed":{"elements":1,"holder":{"boot_id":"","pid":,"start":,"inode":,"pidns":402653183'
)


@cache
def _packer() -> Any:
    """One that has read the words in common, and nothing else."""
    import zlib  # no start packs anything

    return zlib.compressobj(4, wbits=-12, memLevel=4, zdict=COMMON)


def pack(detail: Mapping[str, Any]) -> bytes:
    """An object of JSON, made small."""
    packer = _packer().copy()  # which costs less than to read the words again
    text = json_text.dumps(detail, separators=(",", ":")).encode()
    packed: bytes = packer.compress(text) + packer.flush()
    return packed


def unpack(packed: bytes) -> dict[str, Any]:
    """What :func:`pack` was given. Raises sqlite3.DatabaseError for other bytes."""
    import zlib

    with legible():
        try:
            text = zlib.decompressobj(wbits=-12, zdict=COMMON).decompress(packed)
        except zlib.error as problem:
            raise ValueError(f"a packed line of the history: {problem}") from problem
        found: dict[str, Any] = json_text.loads(text)
    return found
