"""What the iptables backend wrote, as an independent reader understands it: python-iptables.

hvtx builds entries of legacy tables by itself (docs/adr/0017-legacy-tables.md). python-iptables reads
them back through the option parsers of libxtables, those of `iptables-legacy-save` among them, and
through code of its own for addresses, interfaces and protocols. Writing is what it cannot do with
libxtables 1.8.11; reading it can, with 1.8.9 and 1.8.11.
"""

from __future__ import annotations

import subprocess
import sys
from ipaddress import ip_network

import pytest

from integration import lab
from integration.lab.program import Forked, preload

# One family a process: the second asked for finds no target of NAT (python-iptables 1.2.0).
READER = """
import json, sys, warnings
warnings.simplefilter("ignore")
import iptc
kind = iptc.Table6 if sys.argv[1] == "6" else iptc.Table
for name in ("nat", "filter", "mangle"):
    table = kind(name)
    for chain in table.chains:
        for rule in chain.rules:
            target = rule.target
            print(json.dumps({
                "table": name, "chain": chain.name, "src": rule.src, "dst": rule.dst,
                "in": rule.in_interface, "out": rule.out_interface, "protocol": rule.protocol,
                "matches": [(m.name, m.get_all_parameters()) for m in rule.matches],
                "target": target.name, "parameters": target.get_all_parameters(),
            }))
"""


def _address(option: str, text: str) -> list[str]:
    bare = text.removeprefix("!")
    network = ip_network(bare)
    if network.prefixlen == 0:
        return []
    return [*(["!"] if text != bare else []), option, str(network)]


def _interface(option: str, text: str | None) -> list[str]:
    if not text:
        return []
    bare = text.removeprefix("!")
    return [*(["!"] if text != bare else []), option, bare]


def _options(parameters: dict[str, list[str]]) -> list[str]:
    words: list[str] = []
    for name, values in parameters.items():
        inverted = values[:1] == ["!"]
        quoted = [f'"{v}"' if ":" in v and name == "comment" else v for v in values[inverted:]]
        words += [*(["!"] if inverted else []), f"--{name}", *quoted]
    return words


def as_saved(rule: dict[str, object]) -> str:
    """A rule that python-iptables read, in the words of iptables-save."""
    words = ["-A", str(rule["chain"])]
    words += _address("-s", str(rule["src"])) + _address("-d", str(rule["dst"]))
    words += _interface("-i", rule["in"]) + _interface("-o", rule["out"])  # type: ignore[arg-type]
    if rule["protocol"] not in ("ip", "all", None):
        words += ["-p", str(rule["protocol"])]
    for name, parameters in rule["matches"]:  # type: ignore[attr-defined]
        words += ["-m", name, *_options(parameters)]
    return " ".join([*words, "-j", str(rule["target"]), *_options(rule["parameters"])])  # type: ignore[arg-type]


@pytest.mark.parametrize("family", ["4", "6"])
def test_python_iptables_reads_what_was_written(family: str) -> None:
    """Every rule of hvtx's, in every word the same as `iptables-legacy-save` has it."""
    import json

    preload()
    hvtx = Forked()
    subnets = ("--subnet", "10.77.0.0/24", "--subnet", "fd77::/64")
    hvtx("--firewall", "iptables", "network", "create", "net", *subnets)
    ports = ("-p", "8080:80", "-p", "127.0.0.1:5353:53/udp")
    hvtx("vm", "run", "web", "--network", "net", *ports, "--", "/bin/sleep", "60")
    try:
        read = subprocess.run(
            [sys.executable, "-c", READER, family], capture_output=True, text=True, check=False
        )
        assert read.returncode == 0, read.stderr
        found = [as_saved(json.loads(line)) for line in read.stdout.splitlines()]
        saved = lab.run("iptables-legacy-save" if family == "4" else "ip6tables-legacy-save")
        wanted = [line for line in saved.splitlines() if line.startswith("-A")]
        assert len([line for line in wanted if "hvtx:1:" in line]) >= 10
        assert sorted(found) == sorted(wanted)
    finally:
        hvtx("vm", "rm", "--force", "web")
        hvtx("network", "rm", "net")
