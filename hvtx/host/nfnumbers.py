"""Numbers and layouts of nf_tables: include/uapi/linux/netfilter/nf_tables.h, nfnetlink.h."""

from __future__ import annotations

import struct

NETLINK_NETFILTER = 12
FAMILIES = {"inet": 1, "ip": 2, "arp": 3, "netdev": 5, "bridge": 7, "ip6": 10}
FAMILY_NAMES = {number: name for name, number in FAMILIES.items()}

SUBSYSTEM = 10
GETTABLE, DELTABLE, GETCHAIN, NEWRULE, GETRULE, DELRULE = 1, 2, 4, 6, 7, 8
GETSET, NEWSETELEM, GETSETELEM, DELSETELEM = 10, 12, 13, 14
GETGEN, GETOBJ, GETFLOWTABLE = 16, 19, 23

SET_ANONYMOUS = 0x1

TABLE_NAME, TABLE_USERDATA = 1, 6
CHAIN_NAME, CHAIN_USERDATA = 3, 12
RULE_TABLE, RULE_CHAIN, RULE_HANDLE, RULE_EXPRESSIONS, RULE_USERDATA = 1, 2, 3, 4, 7
RULE_COMPAT, COMPAT_PROTOCOL, COMPAT_FLAGS = 5, 1, 2
RULE_POSITION = 6
SET_FLAGS = 3
LIST_TABLE, LIST_SET, LIST_ELEMENTS = 1, 2, 3
ELEM_KEY, ELEM_DATA, ELEM_FLAGS, ELEM_USERDATA, ELEM_EXPR, ELEM_KEY_END = 1, 2, 3, 6, 7, 10
ELEM_CATCH_ALL = 2  # of ELEM_FLAGS (in network order): an element without a key, `*`
COUNTER_BYTES, COUNTER_PACKETS = 1, 2
CONNLIMIT_COUNT, CONNLIMIT_FLAGS, CONNLIMIT_OVER = 1, 2, 1
DATA_VALUE, DATA_VERDICT = 1, 2
VERDICT_CODE, VERDICT_CHAIN = 1, 2
EXPR_NAME, EXPR_DATA = 1, 2
XT_NAME, XT_INFO = 1, 3
META_KEY, L4PROTO = 2, (16).to_bytes(4, "big")
CMP_OP, CMP_DATA, CMP_EQUAL = 2, 3, bytes(4)
PAYLOAD_BASE, PAYLOAD_OFFSET, PAYLOAD_LENGTH, NETWORK_HEADER = 2, 3, 4, (1).to_bytes(4, "big")
HEADER_PROTOCOL = {"ip": 9, "ip6": 6}  # where the protocol stands in the header
APPEND = 0x800

ACCEPT, GOTO = 1, -4

SIX = struct.Struct("=HHHHHH")
TWO = struct.Struct("=HH")
BE32 = struct.Struct(">I")
BE64 = struct.Struct(">Q")
GENMSG = struct.Struct(">BBH")
