"""What others do to a host, as shell commands: the real world runs them, a script prints them.

Words in braces are filled in: with real names to be run, with calls of the script's own functions
(``$(device web)``) to be printed. The fake world has a method of the same name for each.
"""

from __future__ import annotations

from typing import NamedTuple


class Ref(NamedTuple):
    """Something whose name is random: what it is called now, and how a script finds it."""

    name: str
    shell: str

    def __str__(self) -> str:
        return self.name


Word = str | Ref

ACTS = {
    # devices
    "rename": (
        "ip link set {device} down && ip link set {device} name {name} && ip link set {name} up"
    ),
    "delete": "ip link del {device}",
    "alias": "ip link set {device} alias '{mark}'",
    "down": "ip link set {device} down",
    "unplug": "ip link set {device} nomaster",
    "tap": "ip tuntap add {name} mode tap",
    "plug": "ip link set {name} master {device}",
    "vlan": "ip link add link {device} name {name} type vlan id 7",
    "address": "ip addr add {address} dev {device}",
    # rules
    "flush": "nft flush ruleset",
    "save": "nft list ruleset > saved.nft",
    "restore": "nft flush ruleset; nft -f saved.nft",
    "load": "nft -f saved.nft || true",
    "own_rules": (
        "nft add table ip strange; nft add chain ip strange nat; "
        "nft add rule ip strange nat ip saddr {subnet} masquerade"
    ),
    "copied_mark": (
        "nft add table ip strange; nft add chain ip strange nat; "
        "nft add rule ip strange nat ip saddr {subnet} masquerade comment '\"{mark}\"'"
    ),
    "rule_in_ours": "nft add rule inet {table} forward ip saddr 192.0.2.1 drop",
    "element_in_ours": "nft add element inet {table} masq4 '{{ {address} }}'",
    "drop_table": "nft delete table inet {table}",
    "drop_element": "nft delete element inet {table} masq4 '{{ {address} }}'",
    "strip_element": (
        "nft delete element inet {table} masq4 '{{ {address} }}'; "
        "nft add element inet {table} masq4 '{{ {address} }}'"
    ),
    # processes
    "kill": "kill -9 {pid}",
    "hold": "hold {device}",
    "let_go": "let_go {device}",
    "no_address": "ip addr del {address} dev {device}",
    "bind": "bind {port}",
    "unbind": "unbind {port}",
    "guest": "guest",
    "recycle": "recycle {pid}",
    # containers
    "contain": "contain {name} {nsid}",
    "uncontain": "uncontain {name}",
    # lives
    "reboot": "reboot",
    "backup": "backup",
    "old_store": "old_store",
    "new_store": "new_store",
}
