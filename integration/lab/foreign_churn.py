"""Others that change the host beside hvtx all the time, and keep account of all they have there.

Four kinds, each with the host's own tools: rules of the legacy tables by ``iptables-legacy -w``,
rules of ``iptables`` on nf_tables, rules and set elements by ``nft``, devices by ``ip``. Somebody else
knows in which order its rules stand in each chain. Whatever is lost, doubled, brought back, moved or
altered shows as a difference between :meth:`Stranger.expected` and :meth:`Stranger.found`.
"""

from __future__ import annotations

import json
import random

from integration import lab

KINDS = ("legacy", "iptables-nft", "nft", "devices")
TABLE = "strangers"
_TOOLS = {"legacy": "iptables-legacy", "iptables-nft": "iptables-nft"}
_CHAINS = {
    "legacy": ("nat PREROUTING", "nat POSTROUTING", "filter FORWARD", "filter INPUT"),
    "nft": ("forward", "prerouting", "blocked"),
    "devices": ("tap", "bridge"),
}
_CHAINS["iptables-nft"] = _CHAINS["legacy"]
Account = dict[str, list[str]]  # by chain, or by kind of device: what stands there, in order


def settle() -> None:
    """What the others share: tables, chains, and policies of an administrator's."""
    for tool in _TOOLS.values():
        lab.run(tool, "-w", "-P", "FORWARD", "DROP")
        lab.run(tool, "-w", "-P", "INPUT", "ACCEPT")
        for table in ("nat", "filter", "mangle", "raw"):  # a look makes a table: make it now
            lab.run(tool, "-w", "-t", table, "-S")
        for chain in _CHAINS["legacy"]:
            for verb in ("-A", "-D"):
                lab.run(tool, "-w", "-t", *chain.split()[:1], verb, *chain.split()[1:], "-j", "LOG")
    ruleset = f"""table inet {TABLE} {{
        set blocked {{ type ipv4_addr; }}
        chain forward {{ type filter hook forward priority 10; policy drop; }}
        chain prerouting {{ type nat hook prerouting priority -90; }}
    }}"""
    lab.run("nft", "-f", "-", stdin=ruleset)


def policies() -> list[str]:
    """The policies that :func:`settle` gave."""
    shown = [lab.run(tool, "-w", "-S", "FORWARD").splitlines()[0] for tool in _TOOLS.values()]
    chain = lab.run("nft", "list", "chain", "inet", TABLE, "forward")
    return [*shown, next(line.strip() for line in chain.splitlines() if "policy" in line)]


class Stranger:
    """One of them; ``number`` makes its addresses, comments and names its own."""

    def __init__(self, kind: str, number: int, seed: int) -> None:
        self.kind, self.number = kind, number
        self._dice = random.Random(seed * 100 + number)
        self._serial = 0
        self.changes = 0
        self._there: list[tuple[str, str]] = []  # (chain, address or name), as they were made

    def step(self) -> None:
        """Add something or remove something; raises AssertionError where the tool fails."""
        if len(self._there) > 8 or (self._there and self._dice.random() < 0.45):
            thing = self._there[self._dice.randrange(len(self._there))]
            self._remove(*thing)
            self._there.remove(thing)
        else:
            self._serial += 1
            name = f"198.18.{self.number}.{self._serial % 250 + 1}"
            if self.kind == "devices":
                name = f"st{self.number}x{self._serial}"
            thing = (self._dice.choice(_CHAINS[self.kind]), name)
            self._add(*thing)
            self._there.append(thing)
        self.changes += 1

    def leave(self) -> None:
        """Remove all of it."""
        while self._there:
            self._remove(*self._there.pop())

    def _note(self, address: str) -> str:
        return f"stranger {self.number} has {address}"

    def _add(self, chain: str, name: str) -> None:
        if self.kind == "devices":
            words = ("tuntap", "add", name, "mode", "tap") if chain == "tap" else (
                "link", "add", name, "type", "bridge")  # fmt: skip
            lab.run("ip", *words)
            lab.run("ip", "link", "set", name, "alias", self._note(name))
        elif self.kind != "nft":
            self._tables("-A", chain, name)
        elif chain == "blocked":
            lab.run("nft", "add", "element", "inet", TABLE, chain, f"{{ {name} }}")
        else:
            rule = f'ip saddr {name} accept comment "{self._note(name)}"'
            lab.run("nft", f"add rule inet {TABLE} {chain} {rule}")

    def _remove(self, chain: str, name: str) -> None:
        if self.kind == "devices":
            lab.run("ip", "link", "del", name)
        elif self.kind != "nft":
            self._tables("-D", chain, name)
        elif chain == "blocked":
            lab.run("nft", "delete", "element", "inet", TABLE, chain, f"{{ {name} }}")
        else:
            shown = lab.run("nft", "-a", "list", "chain", "inet", TABLE, chain).splitlines()
            (line,) = [line for line in shown if self._note(name) + '"' in line]
            handle = line.rpartition(" ")[2]
            lab.run("nft", "delete", "rule", "inet", TABLE, chain, "handle", handle)

    def _tables(self, verb: str, chain: str, name: str) -> None:
        table, _, chain = chain.partition(" ")
        words = ("-s", name, "-m", "comment", "--comment", self._note(name), "-j", "ACCEPT")
        lab.run(_TOOLS[self.kind], "-w", "-t", table, verb, chain, *words)

    # -- the account -------------------------------------------------------------------------------

    def expected(self) -> Account:
        """What must be there."""
        account: Account = {chain: [] for chain in _CHAINS[self.kind]}
        for chain, name in self._there:
            account[chain].append(self._shown(chain, name))
        account[""] = []
        for chain in ("blocked", "tap", "bridge"):  # these have no order
            account.get(chain, account[""]).sort()
        return account

    def _shown(self, chain: str, name: str) -> str:
        if self.kind in _TOOLS:
            words = f'-s {name}/32 -m comment --comment "{self._note(name)}" -j ACCEPT'
            return f"-A {chain.partition(' ')[2]} {words}"
        if self.kind == "nft" and chain != "blocked":
            return f'ip saddr {name} accept comment "{self._note(name)}"'
        return name if self.kind == "nft" else f"{name} {self._note(name)}"

    def found(self) -> Account:
        """What is there of it; under no chain at all: what has no business to be there."""
        if self.kind == "devices":
            return self._found_devices()
        account: Account = {chain: [] for chain in (*_CHAINS[self.kind], "")}
        if self.kind == "nft":
            self._find_native(account)
            return account
        for table in ("nat", "filter", "mangle", "raw"):
            for line in lab.run(_TOOLS[self.kind], "-w", "-t", table, "-S").splitlines():
                if f"stranger {self.number} " in line or f" 198.18.{self.number}." in line:
                    place = f"{table} {line.split(' ')[1]}"
                    account[place if place in account else ""].append(line)
        return account

    def _find_native(self, account: Account) -> None:
        place = ""
        for line in lab.run("nft", "list", "ruleset").splitlines():
            words = line.strip()
            if line.startswith("table "):
                inside = words == f"table inet {TABLE} {{"
            elif words.startswith("chain "):
                place = words.split(" ")[1] if inside else ""
            elif f'comment "stranger {self.number} has ' in words and "xt" not in words.split():
                account[place if place in account else ""].append(words)
        listed = json.loads(lab.run("nft", "-j", "list", "set", "inet", TABLE, "blocked"))
        (blocked,) = [item["set"] for item in listed["nftables"] if "set" in item]
        mine = f"198.18.{self.number}."
        account["blocked"] = sorted(e for e in blocked.get("elem", ()) if e.startswith(mine))

    def _found_devices(self) -> Account:
        account: Account = {"tap": [], "bridge": [], "": []}
        for link in json.loads(lab.run("ip", "-j", "-d", "link")):
            if f"stranger {self.number} " in link.get("ifalias", "") or link["ifname"].startswith(
                f"st{self.number}x"
            ):
                kind = {"tun": "tap"}.get(
                    link["linkinfo"]["info_kind"], link["linkinfo"]["info_kind"]
                )
                account[kind].append(f"{link['ifname']} {link.get('ifalias')}")
        return {kind: sorted(found) for kind, found in account.items()}
