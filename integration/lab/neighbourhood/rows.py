"""The neighbours, one row each: how it starts, what traffic is its own, what is done to it later.

Scripts run in a shell of the host that ends at the first failure. A neighbour's own flows are asked
at every step: those that it lets pass must pass, those that it stops must stay shut, for the world
and for guests alike.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import NamedTuple

from hvtx.planner.network_managers import dnsmasq_file
from integration import lab
from integration.lab.neighbourhood.flows import Ask
from integration.lab.neighbourhood.host import FAR4, HOST4, UPLINK, WORLD4
from integration.lab.neighbourhood.scene import GATEWAY4, PORT, Scene

OPEN, SHUT = 7000, 7001  # of the host, as its firewall has it
THEIRS = 9980  # a port that a container publishes


class Act(NamedTuple):
    """What is done to a neighbour, or by it.

    ``lasts``: what was fixed before holds on after ``hvtx repair``, without a second fix.
    ``up``: the neighbour is at work after it, so that its own traffic is as it must be.
    """

    name: str
    script: str
    lasts: bool = True
    up: bool = True


Parties = Mapping[str, str]


def nobody(_scene: Scene) -> Parties:
    """No party of its own."""
    return {}


def nothing(_scene: Scene) -> list[Ask]:
    """No traffic of its own."""
    return []


class Neighbour(NamedTuple):
    """One row."""

    name: str
    start: str
    acts: tuple[Act, ...] = ()
    own: Callable[[Scene], list[Ask]] = nothing
    parties: Callable[[Scene], Parties] = nobody
    prepare: str = ""  # before either of both starts
    version: str = ""  # a command that prints it
    firewall: str = "auto"
    resolver: bool = False  # it answers for names on all addresses


def until(command: str, seconds: int = 20) -> str:
    """A script that waits until a command succeeds, and fails if it does not."""
    return f"for n in $(seq {seconds * 5}); do {command} && break; sleep 0.2; done; {command}"


def restarts(unit: str) -> Act:
    """The plain one."""
    return Act("restart", f"systemctl restart {unit}")


def stops(unit: str) -> Act:
    """The last act of a row."""
    return Act("stop", f"systemctl stop {unit}", up=False)


# -- firewalls of the host ---------------------------------------------------------------------------


def doors(_scene: Scene) -> list[Ask]:
    """A port that the host's firewall opens, and one that it does not."""
    return [
        Ask("world to an open port of the host", "world", "tcp", HOST4, OPEN, "host", OPEN),
        Ask("world to a shut port", "world", "tcp", HOST4, SHUT, "host", SHUT, expected=False),
    ]


NFTABLES = f"""#!/usr/sbin/nft -f
flush ruleset
table inet filter {{
    chain input {{
        type filter hook input priority filter; policy drop;
        ct state established,related accept
        iif lo accept
        meta l4proto {{ icmp, ipv6-icmp }} accept
        tcp dport {OPEN} accept
    }}
    chain forward {{ type filter hook forward priority filter; policy drop; }}
    chain output {{ type filter hook output priority filter; policy accept; }}
}}
"""
RULES = f"""*filter
:INPUT DROP [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A INPUT -i lo -j ACCEPT
-A INPUT -p ICMP -j ACCEPT
-A INPUT -p tcp --dport {OPEN} -j ACCEPT
COMMIT
"""


def saved(flavour: str) -> str:
    """Files of netfilter-persistent, and which iptables reads them."""
    rules = {4: RULES.replace("ICMP", "icmp"), 6: RULES.replace("ICMP", "ipv6-icmp")}
    files = "\n".join(
        f"cat >/etc/iptables/rules.v{family} <<'END'\n{text}END" for family, text in rules.items()
    )
    return f"{chosen(flavour)}\nmkdir -p /etc/iptables\n{files}"


def chosen(flavour: str) -> str:
    """Which iptables the host's tools are: nft or legacy."""
    return "\n".join(
        f"update-alternatives --quiet --set {tool} /usr/sbin/{tool}-{flavour}"
        for tool in ("iptables", "ip6tables")
    )


_FIREWALLD = "systemctl {} firewalld\n" + until("firewall-cmd --state -q")
PERSISTENT = (
    Act("reload", "netfilter-persistent reload", lasts=False),
    Act("restart", "systemctl restart netfilter-persistent", lasts=False),
)
FIREWALLS = (
    Neighbour(
        "ufw",
        "ufw --force enable",
        (
            Act("reload", "ufw reload"),
            Act("restart", "systemctl restart ufw"),
            Act("disable", "ufw disable", up=False),
            Act("enable", "ufw --force enable"),
        ),
        doors,
        prepare=f"ufw allow {OPEN}/tcp",
        version="ufw version | head -n 1",
    ),
    Neighbour(
        "firewalld",
        _FIREWALLD.format("start"),
        (
            Act("reload", "firewall-cmd --reload"),
            Act("complete reload", "firewall-cmd --complete-reload"),
            Act("restart", _FIREWALLD.format("restart")),
            stops("firewalld"),
            Act("start again", _FIREWALLD.format("start")),
        ),
        doors,
        prepare=f"firewall-offline-cmd --add-port={OPEN}/tcp",
        version="firewall-cmd --version",
    ),
    Neighbour(
        "nftables",
        "systemctl start nftables",
        (
            Act("reload", "systemctl reload nftables", lasts=False),
            Act("restart", "systemctl restart nftables", lasts=False),
            stops("nftables"),
        ),
        doors,
        prepare=f"cat >/etc/nftables.conf <<'END'\n{NFTABLES}END",
        version="nft --version",
    ),
    Neighbour(
        "netfilter-persistent-nft",
        "systemctl start netfilter-persistent",
        PERSISTENT,
        doors,
        prepare=saved("nft"),
        version="iptables --version",
    ),
    Neighbour(
        "netfilter-persistent-legacy",
        "systemctl start netfilter-persistent",
        PERSISTENT,
        doors,
        prepare=saved("legacy"),
        version="iptables --version",
    ),
)


# -- containers --------------------------------------------------------------------------------------


def containers(tool: str, *names: str) -> Callable[[Scene], Parties]:
    """The network namespaces of containers that run."""

    def look(scene: Scene) -> Parties:
        found = {}
        for name in names:
            told = scene.host.run(tool, "container", "inspect", "-f", "{{.State.Pid}}", name)
            found[name] = scene.host.network_of(int(told))
        return found

    return look


def inner(scene: Scene, tool: str, name: str) -> str:
    """A container's address."""
    told = json.loads(scene.host.run(tool, "container", "inspect", name))[0]["NetworkSettings"]
    found = [told.get("IPAddress"), *(n["IPAddress"] for n in told["Networks"].values())]
    return next(str(address) for address in found if address)


def of_containers(tool: str, *, internal: bool) -> Callable[[Scene], list[Ask]]:
    """What a container publishes is open, what it does not is shut to guests, in whatever order."""

    def ask(scene: Scene) -> list[Ask]:
        one = inner(scene, tool, "one")
        asks = [
            Ask("world to a container's port", "world", "tcp", HOST4, THEIRS, "one", 80),
            Ask("container to world", "one", "tcp", FAR4, 9000, "world", 9000),
            Ask("host to container", "host", "tcp", one, 80, "one", 80),
            Ask("guest to a container's port", "two", "tcp", HOST4, THEIRS, "one", 80),
        ]
        if internal:
            inside = inner(scene, tool, "inner")
            asks.append(
                Ask("guest to an internal one", "two", "tcp", inside, 81, "inner", 81, False)
            )
            # Docker closes these by FORWARD's policy alone, and only where forwarding was off when
            # it started; else they are open to whoever routes to them, whether hvtx is there or not.
            if "-P FORWARD DROP" in scene.host.run("iptables", "-S", "FORWARD"):
                name = "guest to what it does not publish"
                asks.append(Ask(name, "two", "tcp", one, 81, "one", 81, False))
        return asks

    return ask


_RUN = "/bin/busybox sleep 100000"
DOCKER = f"""systemctl start docker
docker info >/dev/null
if ! docker container inspect one >/dev/null 2>&1; then
    tar -c -C / bin/busybox | docker import - bb >/dev/null
    docker network create --internal inside >/dev/null
    docker run -d --restart always --name one -p {THEIRS}:80 bb {_RUN} >/dev/null
    docker run -d --restart always --name inner --network inside bb {_RUN} >/dev/null
fi
iptables -I DOCKER-USER -d {WORLD4} -p tcp --dport 9000 -j DROP
"""
_UP = until("docker container inspect -f '{{.State.Running}}' one inner | grep -c true | grep -q 2")
DOCKER_ACTS = (
    Act("restart", f"systemctl restart docker\n{_UP}"),
    Act("another network", "docker network create more"),
    Act("stop and start", f"systemctl stop docker.socket docker\nsystemctl start docker\n{_UP}"),
)


def of_docker(scene: Scene) -> list[Ask]:
    """Its containers' flows, and an administrator's drop in DOCKER-USER."""
    drop = Ask("guest past a drop in DOCKER-USER", "two", "tcp", WORLD4, 9000, "world", 9000, False)
    return [*of_containers("docker", internal=True)(scene), drop]


PODMAN = f"""tar -c -C / bin/busybox | podman import - bb >/dev/null
podman run -d --runtime=runc --ulimit=host --pids-limit=-1 --name one -p {THEIRS}:80 bb {_RUN} >/dev/null
"""


# lxcfs shows containers a /proc of their own by FUSE, which such a host lacks and nothing here needs.
WITHOUT_FUSE = """systemctl unmask --quiet lxcfs
mkdir -p /etc/systemd/system/lxcfs.service.d
cat >/etc/systemd/system/lxcfs.service.d/x.conf <<'END'
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=
ExecStart=true
ExecStartPost=
ExecStopPost=
END
systemctl daemon-reload
"""


def of_lxd(scene: Scene) -> list[Ask]:
    """A stand-in for a container in its bridge."""
    return [Ask("lxdbr0 to world", "one", "tcp", FAR4, 9000, "world", 9000)]


def plugged(
    bridge: str, address: str, gateway: str, name: str = "one"
) -> Callable[[Scene], Parties]:
    """A namespace with a port in a neighbour's bridge, in the place of its own guest."""

    def plug(scene: Scene) -> Parties:
        made: lab.Namespace = scene.kept(f"guest of {bridge}", lab.Namespace)
        net = ("nsenter", "-t", str(scene.host.pid), "--net", "--")
        peer = ("type", "veth", "peer", "name", "eth0", "netns", str(made.pid))
        if lab.run(*net, "ip", "-j", "link", "show", "theirs0", check=False).strip() in ("", "[]"):
            lab.run(*net, "ip", "link", "add", "theirs0", *peer)
            made.run("ip", "addr", "add", address, "dev", "eth0")
            made.run("ip", "link", "set", "eth0", "up")
            made.run("ip", "route", "add", "default", "via", gateway)
        lab.run(*net, "ip", "link", "set", "theirs0", "master", bridge, "up")
        return {name: f"/proc/{made.pid}/ns/net"}

    return plug


def of_libvirt(_scene: Scene, name: str = "one") -> list[Ask]:
    """A guest in libvirt's network `default`."""
    return [
        Ask("libvirt's guest to world", name, "tcp", FAR4, 9000, "world", 9000),
        Ask("host to libvirt's guest", "host", "tcp", "192.168.122.50", 80, name, 80),
        Ask("libvirt's guest to our published port", name, "tcp", HOST4, PORT, "web", 80),
    ]


CONTAINERS = (
    Neighbour(
        "docker-nft", DOCKER, DOCKER_ACTS, of_docker, containers("docker", "one", "inner"),
        prepare=chosen("nft"), version="docker --version",
    ),
    Neighbour(
        "docker-legacy", DOCKER, DOCKER_ACTS, of_docker, containers("docker", "one", "inner"),
        prepare=chosen("legacy"), version="docker --version",
    ),
    Neighbour(
        "podman", PODMAN,
        (
            Act("network reload", "podman network reload --all"),
            Act("container's restart", "podman restart one"),
        ),
        of_containers("podman", internal=False), containers("podman", "one"),
        version="podman --version; dpkg-query -W netavark",
    ),
    Neighbour(
        "libvirt", "systemctl start libvirtd\nvirsh net-start default",
        (
            restarts("libvirtd"),
            Act("net-destroy, net-start", "virsh net-destroy default\nvirsh net-start default"),
        ),
        of_libvirt, plugged("virbr0", "192.168.122.50/24", "192.168.122.1"),
        version="libvirtd --version",
    ),
    Neighbour(
        "lxd",
        "systemctl start lxd.service\nlxd waitready --timeout 60\n"
        "lxc network create lxdbr0 ipv4.address=10.99.0.1/24 ipv4.nat=true ipv6.address=none",
        (restarts("lxd"),),
        of_lxd, plugged("lxdbr0", "10.99.0.50/24", "10.99.0.1"),
        prepare=WITHOUT_FUSE, version="lxd --version",
    ),
)  # fmt: skip


# -- network managers --------------------------------------------------------------------------------

CATCH_ALL = f"""mkdir -p /etc/systemd/network
cat >/etc/systemd/network/10-uplink.network <<'END'
[Match]
Name={UPLINK}
[Network]
Address={HOST4}/24
Address=2001:db8:100::1/64
Gateway={WORLD4}
Gateway=2001:db8:100::2
END
"""


def matching(match: str) -> str:
    """A file of networkd's that takes whatever matches."""
    return (
        f"{CATCH_ALL}cat >/etc/systemd/network/50-x.network <<'END'\n"
        f"[Match]\n{match}\n[Network]\nDHCP=yes\nEND\n"
    )


_NETWORKD = "systemctl start systemd-networkd\nnetworkctl --no-pager >/dev/null"
_ONLINE = "sleep 3"  # for what it does to devices that it sees now: DHCP has no end here
_NETWORKD_ACTS = (
    Act("restart", f"systemctl restart systemd-networkd\n{_ONLINE}"),
    Act("reload", "networkctl reload"),
    Act("stop", "systemctl stop systemd-networkd.socket systemd-networkd"),
)
MANAGERS = (
    Neighbour(
        "networkd", _NETWORKD, _NETWORKD_ACTS, prepare=CATCH_ALL, version="networkctl --version | head -n 1"
    ),
    Neighbour(
        "networkd-catch-all", f"{_NETWORKD}\n{_ONLINE}", _NETWORKD_ACTS,
        prepare=matching("Name=*"), version="networkctl --version | head -n 1",
    ),
    Neighbour(
        "networkd-ether", f"{_NETWORKD}\n{_ONLINE}", _NETWORKD_ACTS,
        prepare=matching("Type=ether"), version="networkctl --version | head -n 1",
    ),
    Neighbour(
        "NetworkManager", "systemctl start NetworkManager\nnm-online -s -q -t 5 || true",
        (
            restarts("NetworkManager"),
            Act("reload", "systemctl reload NetworkManager"),
            Act("con down", "nmcli connection down $BRIDGE || true"),
            Act("networking off, on", "nmcli networking off\nnmcli networking on"),
            Act("device delete", "nmcli device delete $BRIDGE || true"),
            stops("NetworkManager"),
        ),
        version="NetworkManager --version",
    ),
)  # fmt: skip


# -- others ------------------------------------------------------------------------------------------

JAIL = """cat >/etc/fail2ban/jail.local <<'END'
[sshd]
enabled = true
backend = polling
logpath = /var/log/auth.log
END
touch /var/log/auth.log
"""
VIP = "198.51.100.50"
KEEPALIVED = f"""cat >/etc/keepalived/keepalived.conf <<'END'
vrrp_instance one {{
    state MASTER
    interface {UPLINK}
    virtual_router_id 51
    priority 200
    advert_int 1
    virtual_ipaddress {{
        {VIP}/24
    }}
}}
END
"""
_VIP_UP = until(f"ip -4 addr show dev {UPLINK} | grep -q {VIP}")


def of_keepalived(_scene: Scene) -> list[Ask]:
    """Its address answers, and a published port on it."""
    return [
        Ask("world to the virtual address", "world", "tcp", VIP, OPEN, "host", OPEN),
        Ask("published port on it", "world", "tcp", VIP, PORT, "web", 80),
    ]


CONNTRACKD = f"""cat >/etc/conntrackd/conntrackd.conf <<'END'
Sync {{
    Mode NOTRACK {{ }}
    UDP {{
        IPv4_address {HOST4}
        IPv4_Destination_Address {WORLD4}
        Port 3780
        Interface {UPLINK}
        Checksum on
    }}
}}
General {{
    HashSize 32768
    HashLimit 131072
    LockFile /var/lock/conntrack.lock
    UNIX {{ Path /var/run/conntrackd.ctl }}
    NetlinkBufferSize 2097152
    NetlinkBufferSizeMaxGrowth 8388608
}}
END
"""


def answers(port: int, what: str) -> Callable[[Scene], list[Ask]]:
    """A service that listens by itself."""

    def ask(_scene: Scene) -> list[Ask]:
        return [
            Ask(f"world to {what}", "world", "tcp", HOST4, port, "", 0),
            Ask(f"guest to {what} at its gateway", "two", "tcp", GATEWAY4, port, "", 0),
        ]

    return ask


OTHERS = (
    Neighbour("nobody", "true"),
    Neighbour(
        "fail2ban", f"systemctl start fail2ban\n{until('fail2ban-client ping')}",
        (
            Act("a ban", "fail2ban-client set sshd banip 203.0.113.77"),
            Act("reload", "fail2ban-client reload"),
            stops("fail2ban"),
        ),
        prepare=JAIL, version="fail2ban-client --version",
    ),
    Neighbour(
        "keepalived", f"systemctl start keepalived\n{_VIP_UP}",
        (Act("restart", f"systemctl restart keepalived\n{_VIP_UP}"),),
        of_keepalived, prepare=KEEPALIVED, version="keepalived --version 2>&1 | head -n 1",
    ),
    Neighbour(
        "conntrackd", f"systemctl start conntrackd\n{until('conntrackd -s')}",
        (
            Act("flush", "conntrackd -F || conntrackd -f"), restarts("conntrackd"),
            stops("conntrackd"),
        ),
        prepare=CONNTRACKD, version="conntrackd --version | head -n 1",
    ),
    Neighbour(
        "dnsmasq", "systemctl start dnsmasq", (restarts("dnsmasq"),),
        answers(53, "dnsmasq"),
        prepare=f"cat >/etc/dnsmasq.d/x.conf <<'END'\nno-resolv\n{dnsmasq_file()}END",
        version="dnsmasq --version | head -n 1", resolver=True,
    ),
    Neighbour(
        "node-exporter", "systemctl start prometheus-node-exporter",
        (restarts("prometheus-node-exporter"),), answers(9100, "node_exporter"),
        version="prometheus-node-exporter --version 2>&1 | head -n 1",
    ),
    Neighbour(
        "tcpdump", "systemd-run --unit=capture tcpdump -n -i any -w /dev/null",
        (stops("capture"),), version="tcpdump --version 2>&1 | head -n 1",
    ),
    Neighbour(
        "sysctl", "systemctl start systemd-sysctl",
        (restarts("systemd-sysctl"),),
        prepare="printf 'net.ipv4.ip_forward=0\\n' >/etc/sysctl.d/90-x.conf",
        version="systemctl --version | head -n 1",
    ),
)  # fmt: skip


# -- several at once ---------------------------------------------------------------------------------

NAMED = {row.name: row for row in (*OTHERS, *FIREWALLS, *CONTAINERS, *MANAGERS)}
_LIBVIRTS_GUEST = plugged("virbr0", "192.168.122.50/24", "192.168.122.1", "libvirts")


def parties_of_four(scene: Scene) -> Parties:
    """Docker's containers and a guest of libvirt's."""
    return {**containers("docker", "one", "inner")(scene), **_LIBVIRTS_GUEST(scene)}


def of_four(scene: Scene) -> list[Ask]:
    """What each of the four lets pass and stops, on a host that has them all.

    But what an administrator wrote into iptables: firewalld takes that away at each reload.
    """
    own = of_containers("docker", internal=True)(scene)
    return [*doors(scene), *own, *of_libvirt(scene, "libvirts")]


def acts_of_four() -> tuple[Act, ...]:
    """Their reloads and restarts, one neighbour after the other.

    firewalld's empty the tables of iptables, ufw's too, whose policies stay: who has both loads
    ufw again. Docker and libvirt hear of it and do so themselves.
    """
    wanted = {
        "firewalld": ("reload", "complete reload", "restart"),
        "ufw": ("reload", "restart"),
        "libvirt": ("restart", "net-destroy, net-start"),
        "docker-nft": ("restart",),
    }
    again = {"firewalld": "\nufw reload"}
    return tuple(
        act._replace(name=f"{name}: {act.name}", script=act.script + again.get(name, ""))
        for name, acts in wanted.items()
        for act in NAMED[name].acts
        if act.name in acts
    )


_FOUR = tuple(NAMED[name] for name in ("firewalld", "ufw", "libvirt", "docker-nft"))
FOUR = Neighbour(
    "four-at-once",
    "\n".join(row.start for row in _FOUR),
    acts_of_four(),
    of_four,
    parties_of_four,
    prepare="\n".join(row.prepare for row in _FOUR if row.prepare),
    version="; ".join(row.version for row in _FOUR),
)
NEIGHBOURS = {**NAMED, FOUR.name: FOUR}
