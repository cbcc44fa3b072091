"""Published ports as people write them: ranges, a network; and a VM with other ports. Pure.

``[NETWORK/][HOSTIP:]HOSTPORT[-LAST]:GUESTPORT[-LAST][/udp]``. A network's name has no colon, and
what is published always has one: the first part of ``net/8080:80/udp`` can be nothing else.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from hvtx.errors import Conflict, NotFound, UsageError, advised
from hvtx.model.address import with_port
from hvtx.model.typed import TYPE_CHECKING, NamedTuple
from hvtx.model.vm import Network, Publish, Vm
from hvtx.planner import addressing

if TYPE_CHECKING:
    from types import ModuleType

_EVERY = ("0.0.0.0", "::")  # noqa: S104 - not bound to
MOST = 1024  # ports that a VM publishes
_FORM = "write it as 8080:80, 203.0.113.1:53:53/udp, [2001:db8::1]:443:443 or 8000-8010:8000-8010"


class Asked(NamedTuple):
    """A port to be published, and the network by whose interface; None: the VM's first."""

    network: str | None
    port: Publish


class Unpublished(NamedTuple):
    """A port that is to be published no more; ``host_ip`` None: on every address."""

    protocol: str
    host_ip: str | None
    host_port: int


def parse_published(
    texts: Iterable[str], networks: Collection[str] | None = None
) -> tuple[Asked, ...]:
    """What ``--publish`` says, each port by itself, of a VM in ``networks`` (None: not known).

    Raises UsageError.
    """
    found = [asked for text in texts for asked in _spelt(text)]
    for asked in found:
        if networks is not None and asked.network not in (None, *networks):
            raise UsageError(
                f"a port is published in network {asked.network!r}, which the VM is not in",
                hint=_by_protocol(asked) or f"give it that network too: --network {asked.network}",
            )
    if len(found) > MOST:
        raise _too_many(len(found))
    seen: set[Publish] = set()
    by_service: dict[tuple[str, int], list[Publish]] = {}
    for asked in found:
        port = asked.port
        same = by_service.setdefault((port.protocol, port.host_port), [])
        if port in seen or any(port.collides(other) for other in same):
            raise UsageError(
                f"host port {port.host_port}/{port.protocol} is published twice",
                hint="give each its own host port, or a host address of its own (not 0.0.0.0)",
            )
        seen.add(port)
        same.append(port)
    return tuple(found)


def _besides(right: str) -> UsageError | None:
    """What is wrong with a port as it would be spelt, where that has a hint of its own."""
    try:
        _published(right)
    except UsageError as problem:
        return problem if problem.hint else None
    return None


def _by_protocol(asked: Asked) -> str | None:
    """How ``tcp/8080:80`` is written; None for what is no protocol before the ports."""
    if asked.network not in ("tcp", "udp"):
        return None
    port = f"{asked.port.host_port}:{asked.port.guest_port}"
    return f"write it as {port}{'/udp' if asked.network == 'udp' else ''}"


def _too_many(number: int) -> UsageError:
    return UsageError(
        f"{number} ports are published, and a VM has at most {MOST}",
        hint="publish fewer, or let a proxy in the guest or on the host serve many by one",
    )


def _spelt(text: str) -> list[Asked]:
    """One ``--publish``; where it is refused, and what was meant is plain, the hint says it."""
    try:
        with advised(_FORM):
            return _published(text)
    except UsageError as problem:
        right = _meant().published(text)
        if not right or not all(addressing.is_right(one, text, _published) for one in right):
            besides = _besides(right[0]) if len(right) == 1 else None
            raise besides or problem from None
        hint = f"write it as {right[0]}"
        if len(right) > 1:
            hint = f"one at a time: {' '.join(f'--publish {one}' for one in right)}"
        raise UsageError(problem.message, hint=hint) from problem


def _meant() -> ModuleType:
    from hvtx.model import meant_values  # for a refusal only

    return meant_values


def _published(text: str) -> list[Asked]:
    head, slash, rest = text.partition("/")
    network = head if slash and head.count(":") == 0 else None
    spelt = rest if network is not None else text
    if network is not None:
        addressing.parse_name(network, "network")
    where, colon, guest = spelt.partition("/")[0].rpartition(":")
    before, _, host = where.rpartition(":")
    hosts, guests = _span(text, host), _span(text, guest)
    if (hosts is None and guests is None) or not colon:
        return [Asked(network, addressing.parse_publish(spelt, text))]
    hosts, guests = hosts or _one(text, host), guests or _one(text, guest)
    if len(hosts) != len(guests):
        raise UsageError(
            f"--publish {text!r}: host and guest ports are not equally many:"
            f" {len(hosts)} and {len(guests)}",
            hint="give both ranges the same length: 8000-8010:8000-8010",
        )
    protocol = spelt.partition("/")[2]
    tail = f"/{protocol}" if "/" in spelt else ""
    front = f"{before}:" if before else ""
    first = addressing.parse_publish(f"{front}{hosts[0]}:{guests[0]}{tail}", text)
    return [
        Asked(network, first._replace(host_port=host, guest_port=guest))
        for host, guest in zip(hosts, guests, strict=True)
    ]


def _span(text: str, words: str) -> range | None:
    """The ports of ``FIRST-LAST``; None where it is no range."""
    first, dash, last = words.partition("-")
    if not dash:
        return None
    low, high = (addressing.parse_port(text, word) for word in (first, last))
    if low > high:
        raise UsageError(f"--publish {text!r}: {words} ends before it begins")
    if high - low >= MOST:
        raise _too_many(high - low + 1)
    return range(low, high + 1)


def _one(text: str, words: str) -> range:
    port = addressing.parse_port(text, words)
    return range(port, port + 1)


def parse_unpublished(texts: Iterable[str]) -> tuple[Unpublished, ...]:
    """What ``--unpublish`` says: ``[HOSTIP:]HOSTPORT[-LAST][/udp]``. Raises UsageError."""
    with advised("write it as 8080, 8080/udp, 203.0.113.1:8080, [2001:db8::1]:443 or 8000-8010"):
        found = [port for text in texts for port in _no_more(text)]
    return tuple(dict.fromkeys(found))


def _no_more(text: str) -> list[Unpublished]:
    """One ``--unpublish``; where it is refused, and is what was published, the hint says it."""
    try:
        return _unpublished(text)
    except UsageError as problem:
        right = _meant().unpublished(text)
        if not addressing.is_right(right, text, _unpublished):
            raise
        raise UsageError(problem.message, hint=f"write it as {right}") from problem


def _unpublished(text: str) -> list[Unpublished]:
    spelt, slash, protocol = text.partition("/")
    host_ip, _, ports = spelt.rpartition(":")
    try:
        span = _span(text, ports) or _one(text, ports)
    except UsageError as problem:
        words = problem.message.replace("--publish", "--unpublish", 1)
        raise UsageError(words, hint=problem.hint) from problem
    if (slash and protocol not in ("tcp", "udp")) or spelt.startswith(":"):
        raise UsageError(f"--unpublish {text!r} is not understood")
    address = None
    if host_ip:  # an earlier version may have published what none could serve
        bare = host_ip.removeprefix("[").removesuffix("]")
        parsed = addressing.parse_address(bare, of=f"--unpublish {text!r}:")
        address = None if parsed in _EVERY else parsed
    return [Unpublished(protocol or "tcp", address, port) for port in span]


# -- a VM with other ports -------------------------------------------------------------------------


def changed(
    vm: Vm,
    networks: Mapping[str, Network],
    publish: Sequence[Asked],
    unpublish: Sequence[Unpublished],
) -> Vm:
    """The VM without what is unpublished and with what is published; ``networks`` by id.

    Raises NotFound (not published, no interface there), Conflict, UsageError.
    """
    ports = _Ports(vm, networks)
    for unpublished in unpublish:
        ports.take(unpublished)
    for asked in publish:
        ports.put(asked)
    return ports.vm()


class _Ports:
    """The ports of a VM while they are changed."""

    def __init__(self, vm: Vm, networks: Mapping[str, Network]) -> None:
        self._vm, self._networks = vm, networks
        self._own = {i.position: dict.fromkeys(i.publish) for i in vm.interfaces}
        self._by_service: dict[tuple[str, int], list[tuple[int, Publish]]] = {}
        for position, ports in self._own.items():
            for port in ports:
                self._at(port.protocol, port.host_port).append((position, port))

    def _at(self, protocol: str, host_port: int) -> list[tuple[int, Publish]]:
        return self._by_service.setdefault((protocol, host_port), [])

    def take(self, unpublished: Unpublished) -> None:
        """Without a port. Raises NotFound."""
        there = self._at(unpublished.protocol, unpublished.host_port)
        for position, port in there:
            if port.host_ip == unpublished.host_ip:
                there.remove((position, port))
                del self._own[position][port]
                return
        name = self._vm.name
        others = " ".join(f"--unpublish {_words(port)}" for _, port in there)
        has = f"it has: hvtx vm set {name} {others}"
        where = with_port(unpublished.host_ip, unpublished.host_port)
        raise NotFound(
            f"VM {name!r} does not publish port {where}/{unpublished.protocol}",
            hint=has if others else f"hvtx vm show {name} lists its ports",
        )

    def put(self, asked: Asked) -> None:
        """With a port. Raises NotFound (no interface there), Conflict, UsageError."""
        vm, port = self._vm, asked.port
        own = [i for i in vm.interfaces if asked.network in (None, i.network_name)]
        if not own:
            raise NotFound(
                f"VM {vm.name!r} has no interface in network {asked.network!r}",
                hint=f"hvtx vm show {vm.name} lists its networks",
            )
        interface = min(own, key=lambda i: i.position)
        addressing.check_published(port, self._networks[interface.network])
        if port in self._own[interface.position]:
            return
        there = self._at(port.protocol, port.host_port)
        for position, other in there:
            if other.collides(port):
                by = next(i.network_name for i in vm.interfaces if i.position == position)
                where = "" if position == interface.position else f" in network {by!r}"
                raise Conflict(
                    f"VM {vm.name!r} publishes port {_words(other)} already, to its port"
                    f" {other.guest_port}{where}",
                    hint=f"to lead it elsewhere at once: hvtx vm set {vm.name} --unpublish"
                    f" {_words(other)} --publish {_asked(asked)}",
                )
        there.append((interface.position, port))
        self._own[interface.position][port] = None

    def vm(self) -> Vm:
        """The VM with the ports as they are now. Raises UsageError."""
        number = sum(map(len, self._own.values()))
        if number > MOST:
            raise _too_many(number)
        return self._vm._replace(
            interfaces=tuple(
                i._replace(publish=tuple(self._own[i.position])) for i in self._vm.interfaces
            )
        )


def _asked(asked: Asked) -> str:
    """As ``--publish`` has it."""
    port, network = asked.port, f"{asked.network}/" if asked.network else ""
    return f"{network}{with_port(port.host_ip, port.host_port)}:{port.guest_port}/{port.protocol}"


def _words(port: Publish) -> str:
    return f"{with_port(port.host_ip, port.host_port)}/{port.protocol}"
