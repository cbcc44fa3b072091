"""docs/requirements.md names what the program loads, runs and asks of the kernel."""

from __future__ import annotations

import re
from pathlib import Path

from tests.structure.source import program

TOP = Path(__file__).parent.parent
PAGE = (TOP / "docs/requirements.md").read_text()
GOLDEN = TOP / "tests/rulesets/golden"
# Statements of nftables that are modules of their own, as hvtx's rules have them.
NFT = {
    r"\bct (state|status|original|mark|direction)\b|\bnotrack\b": "nft_ct",
    r"\b(dnat|snat) ip6? to\b": "nft_nat",
    r"\bmasquerade\b": "nft_masq",
    r"\bfib daddr type\b": "nft_fib_inet",
    r"\bct count over\b": "nft_connlimit",
    r"\blimit rate\b": "nft_limit",
    r"\breject\b": "nft_reject_inet",
    r"\bqueue (num|flags|to)\b": "nft_queue",
    r"\blog (prefix|group|level)\b": "nft_log",
    r"\bredirect\b": "nft_redir",
    r"\btproxy\b": "nft_tproxy",
    r"\bsocket transparent\b": "nft_socket",
    r"\b(numgen|jhash|symhash)\b": "nft_hash",
    r"\bquota over\b": "nft_quota",
    r"\bflow (add|offload)\b": "nft_flow_offload",
    r"\bsynproxy\b": "nft_synproxy",
    r"\bosf name\b": "nft_osf",
}
# Programs that are run where they are there, and that nobody has to install for hvtx.
BESIDE = {"timeout", "hvtx", "unshare", "setpriv", "busctl", "nmcli", "systemctl"}


def test_libraries_that_are_loaded_are_on_the_page() -> None:
    found = {
        text
        for module in program()
        for text in module.strings()
        if re.fullmatch(r"lib[a-z0-9]+\.so\.\d+", text)
    }
    assert found == set(re.findall(r"lib\w+\.so\.\d+", PAGE))


def test_the_package_depends_on_these_libraries() -> None:
    control = (TOP / "scripts/debian/control").read_text()
    depends = re.search(r"^Depends: (.*)$", control, re.MULTILINE)
    assert depends
    assert [name for name in re.findall(r"lib\w+", depends[1]) if f"{name}" not in PAGE] == []


def test_modules_of_nftables_are_those_of_the_rules() -> None:
    """Each statement that the rules have, and none that they have not."""
    rules = "\n".join(path.read_text() for path in sorted(GOLDEN.glob("*.nft")))
    wanted = {module for pattern, module in NFT.items() if re.search(pattern, rules)}
    named = set(re.findall(r"`(nft_\w+)`", PAGE)) - {"nft_chain_nat"}  # of chains, not statements
    assert named == wanted


def test_matches_and_targets_of_iptables_are_those_of_the_rules() -> None:
    rules = (GOLDEN / "iptables.txt").read_text()
    matches = set(re.findall(r"-m ([a-z]+)", rules))
    modules = {"xt_tcpudp" if name in ("tcp", "udp") else f"xt_{name}" for name in matches}
    targets = set(re.findall(r"-j ([A-Z]+)(?=\s|$)", rules, re.MULTILINE))
    known = {"ACCEPT": "", "DROP": "", "RETURN": "", "HVTX": "", "MARK": "xt_mark"}
    modules |= {known.get(name, f"xt_{'nat' if name == 'DNAT' else name}") for name in targets}
    assert modules - {""} | {"xt_comment"} == set(re.findall(r"`(xt_\w+)`", PAGE))


def test_the_least_kernel_is_that_of_the_cookie() -> None:
    """The newest of what hvtx cannot do without."""
    (told,) = re.findall(r"\*\*Linux ([\d.]+) or later\*\*", PAGE)
    source = (TOP / "hvtx/host/procfs.py").read_text()
    assert re.findall(r"_SO_NETNS_COOKIE = 71 .*Linux ([\d.]+) on", source) == [told]


def test_no_program_is_run_that_the_page_denies() -> None:
    """iproute2, nft and iptables are typed by people alone; what saves legacy tables is named."""
    denied = {"ip", "tc", "bridge", "nft", "iptables", "ip6tables"}
    run = re.compile(r"program\.(?:run|find|output|ended)\(\s*\(+\"([\w.-]+)\"")
    found = {name for module in program() for name in run.findall(module.text)}
    assert found & denied == set()
    assert found - {name.rpartition("/")[2] for name in re.findall(r"`([\w./-]+)`", PAGE)} <= BESIDE
