"""A word that is unknown where it stands: the hint says which was probably meant, or where it goes."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from hvtx.cli import elsewhere, usage
from hvtx.cli.main import run
from hvtx.cli.root import Group


def err(capsys: pytest.CaptureFixture[str], place: Path, *words: str) -> str:
    """What is said on standard error by a command line that is refused (2), with no store made.

    Without the places of the store, which commands in hints have here as the command line has.
    """
    places = ["--state-dir", str(place / "state"), "--run-dir", str(place)]
    assert run([*places, *words]) == 2
    assert not (place / "state").exists()
    return capsys.readouterr().err.replace(f"{' '.join(places)} ", "")


MEANT = [
    (("statr",), "`hvtx vm start`"),
    (("net", "ls"), "`hvtx network`"),
    (("ls",), "`hvtx vm ls`"),
    (("list",), "`hvtx vm ls`"),
    (("ps",), "`hvtx vm ls`"),
    (("help",), "`hvtx --help`"),
    (("version",), "`hvtx --version`"),
    (("vm", "star"), "`hvtx vm start`"),
    (("apply",), "`hvtx vm apply`"),
    (("vm", "aply"), "`hvtx vm apply`"),
    (("vm", "list"), "`hvtx vm ls`"),
    (("vm", "help"), "`hvtx vm --help`"),
    (("network", "lst"), "`hvtx network ls`"),
    (("vm", "stop", "--forse", "web"), "--force"),
    (("vm", "run", "web", "--port", "80:80"), "--publish"),
    (("vm", "run", "web", "--ram", "512"), "--memory"),
    (("vm", "create", "web", "--image", "a.qcow2"), "--disk"),
    (("vm", "ls", "--format", "json"), "--json"),
    (("gc", "--dry-run"), "--plan"),
    (("gc", "--plan", "-out=x"), "--out"),
    (("vm", "ls", "-o", "json"), "--json"),
    (("vm", "destroy"), "`hvtx vm stop --force`"),
    (("destroy", "vm", "web"), "`hvtx vm stop --force web`"),
    (("network", "destroy"), "`hvtx network rm`"),
    (("network", "create", "lab", "10.77.0.0/24"), "--subnet 10.77.0.0/24"),
]


@pytest.mark.parametrize(("words", "likely"), MEANT)
def test_a_command_that_was_meant_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, words: tuple[str, ...], likely: str
) -> None:
    """Exit 2, and the hint asks."""
    assert f"did you mean {likely}?" in err(capsys, tmp_path, *words).splitlines()[1]


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("--json", "vm", "ls"), "--json belongs after the command: hvtx vm ls --json"),
        (("vm", "--json", "ls"), "--json belongs after the command: hvtx vm ls --json"),
        (
            ("network", "set", "lab", "--block-size", "26"),
            "--block-size is given once, when a network is made: `hvtx network create --help` describes it",
        ),
        (
            ("vm", "set", "web", "--hypervisor", "qemu"),
            "--hypervisor is given once, when a VM is made: `hvtx vm create --help` describes it",
        ),
        (
            ("vm", "ls", "--state-dir", "X"),
            "--state-dir belongs before the command: hvtx --state-dir DIR vm ls",
        ),
        (("vm", "ls", "--debug"), "--debug belongs before the command: hvtx --debug vm ls"),
    ],
)
def test_an_option_in_another_place(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, words: tuple[str, ...], hint: str
) -> None:
    """The hint says where it belongs."""
    assert hint in err(capsys, tmp_path, *words)


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (
            ("vm", "create", "web", "--name", "x"),
            "hint: 'web' is the name by now: leave --name out",
        ),
        (("vm", "show", "web", "-i"), "hint: `hvtx vm show --help` shows its options"),
        (("frobnicate",), "hint: `hvtx --help` shows its commands"),
        (("network", "rebuild"), "hint: `hvtx network --help` shows its commands"),
        (("import", "vmware"), "hint: `hvtx import --help` shows its commands"),
        (("gc",), "hint: hvtx gc --plan shows the plan, hvtx gc --apply carries it out"),
        (
            ("gc", "--heuristic"),
            (
                "hint: hvtx gc --heuristic --plan shows the plan,"
                " hvtx gc --heuristic --apply --yes carries it out"
            ),
        ),
        (
            ("gc", "old.plan"),
            "hint: hvtx gc --plan shows the plan, hvtx gc --apply old.plan carries it out",
        ),
        (
            ("gc", "--installation", "abcdefghij"),
            (
                "hint: hvtx gc --installation abcdefghij --plan shows the plan,"
                " hvtx gc --installation abcdefghij --apply --yes carries it out"
            ),
        ),
    ],
)
def test_a_hint_names_nothing_that_was_not_meant(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, words: tuple[str, ...], hint: str
) -> None:
    """An argument is no option, one letter is like no word, and what was given is kept."""
    assert err(capsys, tmp_path, *words).splitlines()[1] == hint


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("log", "-n", "-1"), "-1 is not between 1 and 1000000000"),
        (("log", "-n", "9" * 5000), "it is too long for a number"),
        (("network", "create", "a", "--subnet", "10.77.0.1/24"), "not a subnet: it has host bits"),
        (
            ("network", "create", "a", "--subnet", "10.77.0.0/33"),
            "not a subnet: it does not appear",
        ),
        (
            ("vm", "create", "a", "-p", "8080-8090:80", "--", "true"),
            "host and guest ports are not equally many: 11 and 1",
        ),
    ],
)
def test_what_is_wrong_is_said_once(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, words: tuple[str, ...], says: str
) -> None:
    assert says in err(capsys, tmp_path, *words).splitlines()[0]


def test_a_path_is_taken_for_no_subnet(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    told = err(capsys, tmp_path, "network", "create", "lab", "/etc")
    assert "`hvtx network create --help`" in told
    assert "--subnet" not in told


# What people type who know virsh, podman, ip and systemctl.
ELSEWHERE = [
    ("vm shutdown web", "did you mean `hvtx vm stop`?"),
    ("vm kill web", "did you mean `hvtx vm stop --force`?"),
    ("vm define web", "did you mean `hvtx vm create`?"),
    ("vm del web", "did you mean `hvtx vm rm`?"),
    ("vm dominfo web", "did you mean `hvtx vm show`?"),
    ("vm port web", "did you mean `hvtx vm show`?"),
    ("vm ssh web", "did you mean `hvtx vm console`?"),
    ("vm pause web", "guests are not paused here: `hvtx vm stop` ends one and keeps its addresses"),
    (
        "vm rename web db",
        "a name stays: create another (`hvtx vm create --help`), then `hvtx vm rm`",
    ),
    ("vm snapshot web", "hvtx has no disk images, snapshots or migration"),
    ("network add lab", "did you mean `hvtx network create`?"),
    ("networks list", "did you mean `hvtx network ls`?"),
    ("vms", "did you mean `hvtx vm`?"),
    ("prune", "did you mean `hvtx gc --plan`?"),
    ("cleanup", "did you mean `hvtx gc --plan`?"),
    ("events", "did you mean `hvtx log`?"),
    ("check", "did you mean `hvtx doctor`?"),
    ("fix", "did you mean `hvtx repair`?"),
    ("backup", "did you mean `hvtx store backup`?"),
    ("restore", "did you mean `hvtx store restore`?"),
    ("store save x", "did you mean `hvtx store backup`?"),
    ("systemd enable", "did you mean `hvtx systemd install`?"),
    ("cni remove", "did you mean `hvtx cni uninstall`?"),
    # in another order
    ("help vm create", "did you mean `hvtx vm create --help`?"),
    ("vm help create", "did you mean `hvtx vm create --help`?"),
    ("web vm start", "did you mean `hvtx vm start web`?"),
    ("vm web start", "did you mean `hvtx vm start web`?"),
    ("web start", "did you mean `hvtx vm start web`?"),
    ("start vm web", "did you mean `hvtx vm start web`?"),
    ("ls networks", "did you mean `hvtx network ls`?"),
    ("delete network lab", "did you mean `hvtx network rm lab`?"),
    ("network lab show", "did you mean `hvtx network show lab`?"),
    ("create network lab --subnet 10.77.0.0/24", "did you mean `hvtx network create lab …`?"),
    # options
    ("-V", "did you mean --version?"),
    ("vm stop -f web", "did you mean --force?"),
    ("vm create web -m 512", "did you mean --memory?"),
    ("vm create web --ip6 fd77::5", "did you mean --ip?"),
    ("vm create web --hwaddr 02:00:00:00:00:01", "did you mean --mac?"),
    ("vm run --name web", "the name is a word of its own: hvtx vm run NAME …"),
    ("vm run -it web", "a VM runs in the background; `hvtx vm console NAME` joins"),
    ("vm run --rm web", "a VM stays on record after it ends, until `hvtx vm rm NAME`"),
    ("vm create web --dry-run", "describe it in a file, then: hvtx vm apply --plan -f FILE"),
    ("vm ls -a", "all are listed, running or not: hvtx vm ls"),
    ("vm ls -q", "the names alone: hvtx vm ls --json | jq -r '.vms[].name'"),
    ("vm stop --all", "name each: hvtx vm stop NAME NAME…; `hvtx vm ls` lists them"),
    ("vm restart --all", "name each: hvtx vm stop NAME NAME…; hvtx vm start NAME NAME…; `hvtx"),
    ("vm logs -n 5 web", "its last lines: hvtx vm logs NAME | tail -n 20"),
    ("vm rm -y web", "nothing is asked here: leave it out"),
    ("doctor --fix", "`hvtx repair` puts back what is damaged"),
    ("network create lab --gateway 10.77.0.1", "the gateway is the first address of each --subnet"),
    ("network set lab --block-size 26", "--block-size is given once, when a network is made"),
    ("explain iptables -t nat -A X", "two dashes: hvtx explain -- iptables -t nat -A X"),
    ("network start lab", "it is up from `hvtx network create` on; hvtx repair NAME"),
    ("network stop lab", "until it is removed: hvtx network rm NAME"),
    ("network restart lab", "hvtx repair NAME puts back what is missing of it"),
    ("vm stats web", "hvtx vm show NAME tells its pid"),
    ("systemd status", "systemctl status hvtx-recover.service hvtx-gc.timer"),
    ("import libvirt", "hvtx adopt DEVICE --vm NAME"),
    ("config", "lines of /etc/hvtx/config.toml"),
    ("network create lab --dhcp-range 10.0.0.9-10.0.0.20", "--dhcp serves just these"),
    ("network create lab --vlan 5", "hvtx has no VLANs"),
    ("vm run web --cdrom x.iso", "there is no CD-ROM drive"),
    ("vm start web --wait", "it waits until that is so by itself"),
    ("log -f", "watch hvtx log -n 20"),
    ("metrics --port 9090", "hvtx metrics --textfile FILE"),
    ("gc --force", "hvtx gc --plan --all says why a thing stays"),
    ("repair --dry-run", "hvtx doctor tells what it would put back"),
    ("recover --all", "it does all by itself: hvtx recover"),
    ("vm run web --name foo", "'web' is the name by now: leave --name out"),
    ("vm set web --name foo", "a name stays: create another"),
    ("vm attach web", "a console: hvtx vm console NAME"),
    ("vm set web --autostart=no", "write it as --autostart, or --no-autostart"),
    ("vm create web --autostart yes -- sleep 1", "leave 'yes' out"),
    ("vm create web --autostart no -- sleep 1", "leave both words out"),
    ("vm set web --autostart off", "write it as --no-autostart"),
    ("gc web", "at one thing: hvtx explain web"),
    ("gc --plan web", "at one thing: hvtx explain web"),
    ("gc --apply --yes", "nothing is asked here: hvtx gc --apply"),
    ("gc --apply --all", "hvtx gc --apply does all that it would do"),
    # a word that is an option's, and an option that stands for a value
    ("vm set web memory=2048", "did you mean --memory 2048?"),
    ("vm set web memory 512", "did you mean --memory 512?"),
    ("vm set web autostart", "did you mean --autostart?"),
    ("vm create web kernel=/k", "did you mean --kernel /k?"),
    ("network set lab isolate", "did you mean --isolate?"),
    ("network set lab egress=none", "did you mean --egress none?"),
    ("vm create web --network --ip 10.0.0.5", "give it one, or leave --network out"),
    ("vm create web --kernel --initrd x", "give it one, or leave --kernel out"),
    ("vm create web db --kernel k", "of several VMs, name one at a time"),
    ("vm create web --no-autostart", "leave it out: without --autostart there is none"),
    ("vm run web --no-kernel", "leave it out: without --kernel there is none"),
    # what virsh, podman and docker have commands for
    ("vm autostart web", "hvtx vm set NAME --autostart, or --no-autostart"),
    ("vm enable web", "hvtx vm set NAME --autostart"),
    ("vm detach web", "hvtx vm stop NAME ends it"),
    ("vm publish web 8080:80", "hvtx vm set NAME --publish 8080:80"),
    ("vm port-forward web 80", "hvtx vm set NAME --publish 8080:80"),
    ("network connect lab web", "networks are given once, when it is made"),
    # ports
    ("vm create web -p tcp/8080:80 --kernel k", "write it as 8080:80"),
    ("vm create web -p udp/53:53 --kernel k", "write it as 53:53/udp"),
    ("vm create web -p [127.0.0.1]:8080:80 --kernel k", "write it as 127.0.0.1:8080:80"),
    ("vm create web -p=8080:80 --kernel k", "write it as 8080:80"),
    ("cluster forget 10.64.3.0/26", "make sure that no VM has an address of it"),
    (
        "cluster forget old",
        "power it off or take it off the network, then: hvtx cluster forget old",
    ),
    ("vm apply -f a.toml b.toml", "each file has one: hvtx vm apply -f a.toml -f b.toml"),
    # words too many
    ("network create lab --subnet 10.0.0.0/24 --isolate yes", "leave 'yes' out"),
    (
        "network create lab --subnet 10.0.0.0/24,fd00::/64",
        "one at a time: --subnet 10.0.0.0/24 --subnet fd00::/64",
    ),
    ("vm ls web", "one of them: hvtx vm show web"),
    ("vm show web db", "one at a time: hvtx vm show db"),
    ("log web", "of one VM: hvtx log --vm web"),
    ("doctor eth0", "one thing: hvtx explain eth0"),
]


@pytest.mark.parametrize(("line", "hint"), ELSEWHERE)
def test_words_of_other_programs(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, line: str, hint: str
) -> None:
    """Each is told what it is here, as a whole command where one is meant."""
    assert hint in err(capsys, tmp_path, *line.split()).splitlines()[1]


# A group in capitals or with a slip, and lines in another order.
GROUPS = [
    ("Network rm lab", "network rm lab"),
    ("NETWORK ls", "network ls"),
    ("Network create lab --subnet 10.77.0.0/24", "network create lab …"),
    ("NETWORK Show lab", "network show lab"),
    ("netwrok rm lab", "network rm lab"),
    ("netwrok ls", "network ls"),
    ("VM ls", "vm ls"),
    ("Vm stop web", "vm stop web"),
    ("VM RM web", "vm rm web"),
    ("vmm rm web", "vm rm web"),
    ("Vm create web", "vm create web"),
    ("vm1 start", "vm start vm1"),
    ("Cluster status", "cluster status"),
    ("Store backup b.db", "store backup b.db"),
    ("Networks ls", "network"),
    ("Gc --plan", "gc"),
    # what is typed twice
    ("hvtx vm ls", "vm ls"),
    ("Hvtx rm vm web", "vm rm web"),
    ("HVTX network show lab", "network show lab"),
    ("hvtx stop", "vm stop"),
    ("vm vm ls", "vm ls"),
    ("vm network ls", "network ls"),
    ("network vm show web", "vm show web"),
    # a command that takes no name, and one of networks only
    ("web ls", "vm show web"),
    ("vm web ls", "vm show web"),
    ("ls vm web", "vm show web"),
    ("network lab ls", "network show lab"),
    ("web apply", "vm apply"),
    ("lab create --subnet 10.0.0.0/24", "network create lab …"),
    ("web create --memory 512", "vm create web …"),
    ("web create --memory 512 -- prog --subnet x", "vm create web …"),
]


@pytest.mark.parametrize(("line", "command"), GROUPS)
def test_a_group_that_was_typed_is_kept(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, line: str, command: str
) -> None:
    """A hint that is copied acts on what was meant: no network's name becomes a VM's."""
    told = err(capsys, tmp_path, *line.split()).splitlines()[1]
    assert told == f"hint: did you mean `hvtx {command}`?"


@pytest.mark.parametrize("verb", ["ls", "rm", "create", "stop", "show"])
@pytest.mark.parametrize("word", ["VM", "Vm", "Network", "NETWORK", "Hvtx", "Cluster", "webb"])
def test_what_a_hint_names_is_accepted(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, word: str, verb: str
) -> None:
    """By the parser: the configuration that is not there is what it ends with."""
    for after in ([verb, "web"], [verb]):
        told = err(capsys, tmp_path, word, *after)
        meant = told.partition("did you mean `hvtx ")[2].partition("`")[0].split()
        if len(meant) < 2 or (verb != "ls" and "web" not in meant):
            continue  # a group or a command alone: what is missing is told next
        meant += ["--subnet", "10.0.0.0/24"] if meant[:2] == ["network", "create"] else []
        code = run(["--config", "/nowhere.toml", *meant])
        assert code == 3, (word, after, capsys.readouterr().err)
        typed = word.lower() if word.lower() in ("vm", "network", "cluster") else "vm"
        assert meant[0] == typed


def test_of_several_words_none_is_taken_for_a_name(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """`vm rm web lab` would remove both."""
    told = err(capsys, tmp_path, "web", "rm", "lab")
    assert told.splitlines()[1] == "hint: `hvtx --help` shows its commands"
    assert "`hvtx --help`" in err(capsys, tmp_path, "hvtx", "-q")


def test_a_log_is_followed_where_it_is(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the state directory that is in use, whoever names it."""
    told = err(capsys, tmp_path, "vm", "logs", "-f", "web")
    assert f"follow its file: tail -F {tmp_path}/state/logs/NAME.log\n" in told
    monkeypatch.setenv("HVTX_STATE_DIR", "/srv/of vms")
    assert run(["vm", "logs", "--follow", "web"]) == 2
    assert "tail -F '/srv/of vms'/logs/NAME.log\n" in capsys.readouterr().err
    assert run(["--config", "/nowhere.toml", "vm", "logs", "-f", "web"]) == 2
    assert "tail -F STATE_DIR/logs/NAME.log\n" in capsys.readouterr().err


def test_a_command_in_quotes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "did you mean `hvtx vm ls`?" in err(capsys, tmp_path, "vm ls")


@pytest.mark.parametrize("line", ["vm shutdown web", "web vm start", "ls networks", "prune"])
def test_a_command_that_is_named_exists(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, line: str
) -> None:
    """What the hint names is a command: its help is printed."""
    told = err(capsys, tmp_path, *line.split()).partition("did you mean `hvtx ")[2].split("`")[0]
    words = [word for word in told.split() if word != "web"]
    assert run([*words, "--help"]) == 0


def test_every_word_of_other_programs_leads_to_a_command() -> None:
    """No table names a command or an option that is not there."""
    for group in elsewhere.GROUPS.values():
        usage._commands_of(group)
    known = {
        *usage.root.list_commands(click.Context(usage.root)),
        *(
            c
            for g in ("vm", "network", "store", "systemd", "cni", "cluster")
            for c in usage._commands_of(g)
        ),
    }
    for name, verbs in elsewhere._VERBS.items():
        assert [verb for verb in verbs if verb.split()[0] in known], name
    for said in elsewhere._ROOT.values():
        usage._command_at(" ".join(["hvtx", *(w for w in said.split() if not w.startswith("-"))]))
    for _, paths, _ in elsewhere._ADVICE:
        for path in paths:
            usage._command_at(f"hvtx {path}")
    for path in elsewhere._EXTRA:
        usage._command_at(f"hvtx {path}")


def test_every_group_knows_what_was_meant() -> None:
    """A group of click's own would answer an unknown word without a hint."""
    for name in usage.root.list_commands(click.Context(usage.root)):
        command = usage._command_at(f"hvtx {name}")
        assert isinstance(command, Group) is isinstance(command, click.Group), name
