"""The claims of blocks as a model: every interleaving of two hosts' steps, lost words and crashes.

Two hosts, ``A`` and ``B``, claim, use and give back two blocks. A step is what the program does
atomically: one transaction of a store, one transaction of etcd, one message. A question travels: it
may be lost, may arrive late (after the asker has given up and gone on), and may arrive with its answer
lost. A host may be killed between any two steps. ``A`` may be copied whole, disk and all, to another
machine (its ``twin``), its store may be put back from a copy, and a person may fence it and say that
it is gone. What an answer means is asked of the program's own planner (``verdict``,
``never_granted``).

:func:`search` returns the shortest way to each violation. ``weak`` names rules that are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from hvtx.model.block import Block, BlockState, Held, Pool
from hvtx.planner.blocks import FORGOTTEN, Answer, Verdict, never_granted, verdict
from hvtx.planner.registering import registration
from tests.protocol.searching import Found, explore

BLOCKS = ("p", "q")
POOL = Pool("lab", "10.64.0.0/25", 26)
RULES = frozenset(
    {
        "row-after-asking",  # 1: no row before the call
        "guess-not-granted",  # 2: an unknown answer is taken for a no
        "guess-granted",  # 2: and for a yes
        "another-token",  # 2: asked again with a new token, the old claim is forgotten
        "ttl",  # 3: time frees a block whose host is not heard of
        "no-registration",  # 4: nobody asks which machine an installation is of
        "trust-old-store",  # 5: a store that was put back is believed
        "no-numbers",  # 5: a claim is granted behind a later one
        "put-without-compare",  # CAS: a block is taken whoever has it
        "no-closing",  # a claim that nothing was left for is forgotten, and not closed in the cluster
        "give-back-after-rollback",  # 5: a block that an older store takes for empty goes back
        "release-before-row",  # the block goes back while it may be leased from
        "release-by-copy",  # 4: whoever has the token: the machine is not compared
        "release-by-block",  # whoever has it now: the token is not compared
        "no-machine-in-store",  # 4: whose the blocks are is not on record: a copy leases from them
        "start-what-is-lost",  # 5: a guest on record starts in a block that is another host's
        "register-unfenced",  # a person's word for a copy, and the machine that had the blocks runs
        "claim-before-all-registered",  # another etcd, of which a host that has blocks did not hear
        "register-without-compare",  # another etcd: a block is put there whoever has it
        "forget-unfenced",  # a person's word, and claims of that host go on
    }
)


class Row(NamedTuple):
    """A claim in a store; ``block`` and ``used`` once it is answered."""

    number: int
    nonce: int
    state: str  # intended, committed, releasing, lost
    block: str = ""
    used: bool = False  # a guest has an address of it
    kept: bool = False  # the store is an older one: guests that it does not know may have some

    @property
    def token(self) -> str:
        return f"{self.number:012d}.{self.nonce}"


class Message(NamedTuple):
    """A question under way to etcd."""

    host: int
    verb: str  # claim, release
    number: int
    token: str
    block: str
    machine: str


class Host(NamedTuple):
    """A host's store and what of it is in memory."""

    rows: tuple[Row, ...] = ()
    next: int = 1
    doubted: bool = False
    waiting: str = ""  # the token that an answer is waited for
    heard: str = ""  # the answer: a block, "none", "spent", "refused"
    alive: bool = True
    guests: frozenset[str] = frozenset()  # blocks with a guest that runs: no crash ends it
    machine: str = ""  # on record: whose the blocks are
    answered: int = 0  # which etcd the answer is from
    etcd: int = 0  # on record: which one it is that the blocks are from


class Cluster(NamedTuple):
    """Etcd."""

    blocks: tuple[tuple[str, tuple[str, str]], ...] = ()  # block -> installation, token
    claims: tuple[tuple[str, str], ...] = ()  # installation token -> block
    machines: tuple[tuple[str, str], ...] = ()
    last: tuple[tuple[str, int], ...] = ()


class World(NamedTuple):
    """How often each thing may happen."""

    claims: int = 2  # of all hosts together
    crashes: int = 0
    lost: int = 0  # a question or an answer
    late: int = 0  # a question that arrives after its asker gave up, or arrives twice
    releases: int = 0
    copies: int = 0  # host A is copied to another machine
    rollbacks: int = 0
    forgets: int = 0
    pauses: int = 0  # long enough for a TTL
    registers: int = 0  # a person says that the copy has the blocks
    etcds: int = 0  # etcd is lost with all that it had, and another one is there


class State(NamedTuple):
    """Everything."""

    hosts: tuple[Host, Host, Host] = (Host(), Host(), Host(alive=False))  # A, B, the twin of A
    cluster: Cluster = Cluster()
    wire: frozenset[Message] = frozenset()
    old: Host | None = None  # a copy of A's store
    etcd: int = 0  # which one it is
    fenced: bool = False  # A was taken off the network, and its guests ended
    budget: World = World()


NAMES = ("A", "B", "A'")
MACHINES = ("ma", "mb", "mt")
INSTALLATIONS = ("a", "b", "a")
_STEP = tuple[str, State]


def _with(items: tuple, index: int, item: object) -> tuple:
    return (*items[:index], item, *items[index + 1 :])


def _host(s: State, who: int, **changes: object) -> State:
    return s._replace(hosts=_with(s.hosts, who, s.hosts[who]._replace(**changes)))


def _row(host: Host, token: str, **changes: object) -> tuple[Row, ...]:
    return tuple(r._replace(**changes) if r.token == token else r for r in host.rows)


def _spend(s: State, what: str) -> State:
    return s._replace(budget=s.budget._replace(**{what: getattr(s.budget, what) - 1}))


# -- etcd ------------------------------------------------------------------------------------------


def arrive(c: Cluster, m: Message, weak: frozenset[str]) -> tuple[Cluster, str]:
    """One transaction of etcd, and its answer (``EtcdBlocks.claim``, ``release``)."""
    installation = INSTALLATIONS[m.host]
    blocks, claims = dict(c.blocks), dict(c.claims)
    machines, last = dict(c.machines), dict(c.last)
    name = f"{installation} {m.token}"
    if m.verb == "release":
        mine = blocks.get(m.block) == (installation, m.token)
        if machines.get(installation) != m.machine and "release-by-copy" not in weak:
            return c, "gone" if machines.get(installation) == FORGOTTEN else "refused"
        if mine or ("release-by-block" in weak and m.block in blocks):
            blocks.pop(m.block)
            claims.pop(name, None)
        return _made(blocks, claims, machines, last), "gone"
    if "no-registration" in weak:
        machines[installation] = m.machine
    machines.setdefault(installation, m.machine)  # `_register`, a CAS of its own
    found = Answer(
        claims.get(name),
        machines[installation],
        None if "no-numbers" in weak else f"{last.get(installation, 0):012d}",
        "d",
        blocks.get(m.block) and "x",  # type: ignore[arg-type]
    )
    if "put-without-compare" in weak:
        found = found._replace(holder=None)
    if m.verb == "close":  # nothing is granted for this number from here on
        if found.claimed is None and last.get(installation, 0) < m.number:
            last[installation] = m.number
        return _made(blocks, claims, machines, last), found.claimed or "closed"
    means = verdict(found, number=m.token[:12], machine=m.machine, definition="d")
    if means is Verdict.AGAIN:  # all compares hold
        blocks[m.block] = (installation, m.token)
        claims[name] = m.block
        last[installation] = max(m.number, last.get(installation, 0))
        return _made(blocks, claims, machines, last), m.block
    answer = {Verdict.OURS: found.claimed, Verdict.TAKEN: "taken", Verdict.SPENT: "spent"}
    return _made(blocks, claims, machines, last), str(answer.get(means, "refused"))


def _made(blocks: dict, claims: dict, machines: dict, last: dict) -> Cluster:
    return Cluster(*(tuple(sorted(each.items())) for each in (blocks, claims, machines, last)))


# -- hosts -----------------------------------------------------------------------------------------


def _words(m: Message) -> str:
    return f"{m.verb} {m.token} {m.block}"


def _ask(s: State, who: int, row: Row, verb: str, block: str) -> State:
    message = Message(who, verb, row.number, row.token, block, MACHINES[who])
    s = s._replace(wire=s.wire | {message})
    return _host(s, who, waiting=f"{verb} {row.token} {block}", heard="")


def _moves(s: State, who: int, weak: frozenset[str]) -> Iterator[_STEP]:
    host = s.hosts[who]
    if not host.alive:
        return
    name = NAMES[who]
    if host.heard:
        yield f"{name} writes the answer down", _answered(s, who, weak)
        return
    if host.waiting:
        # the deadline: what was asked may still be under way
        under_way = any(_words(m) == host.waiting and m.host == who for m in s.wire)
        if not under_way:
            yield f"{name} gives up waiting", _given_up(s, who, weak)
        elif s.budget.late:
            yield f"{name} gives up waiting", _given_up(_spend(s, "late"), who, weak)
        return
    if host.etcd != s.etcd and any(r.state != "intended" for r in host.rows):
        yield from _registered(s, who, weak)
        yield from _guests(s, who, weak)
        return  # an etcd that is another one is asked nothing
    if host.doubted and "trust-old-store" not in weak:
        yield f"{name} compares with the cluster", _compared(s, who, weak)
        return
    yield from _guests(s, who, weak)
    if not _may_ask(s, weak):
        return
    open_ones = [r for r in host.rows if r.state == "intended"]
    if open_ones:
        yield f"{name} asks for p", _ask(s, who, open_ones[0], "claim", "p")
    elif s.budget.claims:
        row = Row(host.next, s.budget.claims, "intended")  # a nonce that no other claim has
        begun = _host(_spend(s, "claims"), who, next=host.next + 1)
        if "row-after-asking" in weak:
            yield f"{name} asks for p without a row", _ask(begun, who, row, "claim", "p")
        else:
            yield f"{name} intends a claim", _host(begun, who, rows=(*host.rows, row))
    for row in host.rows:
        if row.state == "committed" and not row.used and not row.kept and s.budget.releases:
            if "release-before-row" in weak:
                yield f"{name} gives {row.block} back", _ask(s, who, row, "release", row.block)
            rows = _row(host, row.token, state="releasing")
            yield f"{name} closes {row.block}", _host(_spend(s, "releases"), who, rows=rows)
        if row.state == "releasing":
            yield f"{name} gives {row.block} back", _ask(s, who, row, "release", row.block)


def _guests(s: State, who: int, weak: frozenset[str]) -> Iterator[_STEP]:
    """What is done about guests without a word to the cluster."""
    host, name = s.hosts[who], NAMES[who]
    own = host.machine == MACHINES[who] or "no-machine-in-store" in weak
    for row in host.rows:
        startable = row.state == "committed" or (
            row.state == "lost" and "start-what-is-lost" in weak
        )
        if own and startable and row.used and row.block not in host.guests:
            yield (
                f"{name} starts its guest in {row.block}",
                _host(s, who, guests=host.guests | {row.block}),
            )
        if own and row.state == "committed" and not row.used:
            guests = host.guests | {row.block}
            yield (
                f"{name} leases from {row.block}",
                _host(s, who, rows=_row(host, row.token, used=True), guests=guests),
            )
        if row.state == "committed" and row.used and s.budget.releases:
            yield (
                f"{name}'s guest in {row.block} ends",
                _host(
                    _spend(s, "releases"),
                    who,
                    rows=_row(host, row.token, used=False),
                    guests=host.guests - {row.block},
                ),
            )


def _may_ask(s: State, weak: frozenset[str]) -> bool:
    """Whether every host that has blocks is registered: till then a person keeps VMs unmade."""
    known = [h.etcd for h in s.hosts if h.alive and any(r.state != "intended" for r in h.rows)]
    known += [h.answered for h in s.hosts if h.alive and h.heard]
    return all(etcd == s.etcd for etcd in known) or "claim-before-all-registered" in weak


def _registered(s: State, who: int, weak: frozenset[str]) -> Iterator[_STEP]:
    """`cluster register` with another etcd (``planner.registering``), in one step."""
    host, installation = s.hosts[who], INSTALLATIONS[who]
    rows = [
        Block(r.number, str(r.nonce), POOL, r.block, BlockState(r.state), "", used=int(r.used))
        for r in host.rows
        if r.state != "intended"
    ]
    holders = [Held("lab", block, *held) for block, held in s.cluster.blocks]
    if "register-without-compare" in weak:
        holders = []
    found = registration(rows, holders, [POOL], installation=installation, another=True)
    if found.taken:
        return  # refused: nothing is changed
    blocks, claims = dict(s.cluster.blocks), dict(s.cluster.claims)
    for block, _ in found.put:
        blocks[str(block.cidr)] = (installation, block.token)
        claims[f"{installation} {block.token}"] = str(block.cidr)
    lost = {block.token for block in found.lost}
    kept = tuple(
        r._replace(state="lost") if r.token in lost else r
        for r in host.rows
        if r.state != "intended"
    )
    machines = {**dict(s.cluster.machines), installation: MACHINES[who]}
    last = {**dict(s.cluster.last), installation: host.next - 1}
    after = s._replace(cluster=_made(blocks, claims, machines, last))
    yield f"{NAMES[who]} is registered", _host(after, who, rows=kept, etcd=s.etcd)


def _answered(s: State, who: int, weak: frozenset[str]) -> State:
    host = s.hosts[who]
    verb, token, asked = host.waiting.split(" ")
    done = {"waiting": "", "heard": ""}
    if host.heard == "another" or (host.heard == "taken" and host.answered != s.etcd):
        # one run has one etcd: it ends
        return _host(s, who, **done)
    if verb == "release" and host.heard == "refused":
        return _host(s, who, alive=False, **done)
    if verb == "release":
        return _host(s, who, rows=tuple(r for r in host.rows if r.token != token), **done)
    if host.heard in BLOCKS:  # of a claim, or of one that was to be closed
        rows = _row(host, token, state="committed", block=host.heard)
        if "row-after-asking" in weak and all(r.token != token for r in rows):
            number, _, nonce = token.partition(".")
            rows = (*rows, Row(int(number), int(nonce), "committed", host.heard))
        return _host(
            s, who, rows=rows, machine=host.machine or MACHINES[who], etcd=host.answered, **done
        )
    if host.heard == "taken" and asked == "p":
        number, _, nonce = token.partition(".")
        row = Row(int(number), int(nonce), "intended")
        return _ask(s, who, row, "claim", "q")
    if (host.heard == "taken" and "no-closing" in weak) or verb == "close":
        # none is left: NoRoom, and the claim is over
        return _host(s, who, rows=tuple(r for r in host.rows if r.token != token), **done)
    if host.heard == "taken":
        number, _, nonce = token.partition(".")
        return _ask(s, who, Row(int(number), int(nonce), "intended"), "close", "-")
    if host.heard == "spent":  # Refused("store-rolled-back"), then `recover --accept-rollback`
        return _host(s, who, doubted=True, **done)
    return _host(s, who, alive=False, **done)  # refused: a person is told


def _given_up(s: State, who: int, weak: frozenset[str]) -> State:
    host = s.hosts[who]
    verb, token, block = host.waiting.split(" ")
    s = _host(s, who, waiting="")
    if verb == "release":
        return s
    if "guess-not-granted" in weak:
        return _host(s, who, rows=tuple(r for r in host.rows if r.token != token))
    if "guess-granted" in weak:
        rows = _row(host, token, state="committed", block=block)
        return _host(s, who, rows=rows, machine=MACHINES[who])
    if "another-token" in weak:
        rows = tuple(r for r in host.rows if r.token != token)
        new = Row(host.next, 100 + host.next, "intended")
        return _host(s, who, rows=(*rows, new), next=host.next + 1)
    return s


def _compared(s: State, who: int, weak: frozenset[str]) -> State:
    """``Blocks._compare``: one look at the cluster, and what is done about it."""
    host, installation = s.hosts[who], INSTALLATIONS[who]
    machine = dict(s.cluster.machines).get(installation)
    if machine not in (None, MACHINES[who]):
        return s  # refused; it stays in doubt
    last = dict(s.cluster.last).get(installation, 0)
    mine = [
        Held("lab", block, installation, key.split(" ")[1])
        for key, block in s.cluster.claims
        if key.startswith(installation + " ")
    ]
    tokens = {(held.cidr, held.token) for held in mine}
    blocks = [
        Block(r.number, str(r.nonce), POOL, r.block or None, BlockState(r.state), "")
        for r in host.rows
    ]
    gone = {block.token for block in never_granted(blocks, mine, last)}
    kept = "give-back-after-rollback" not in weak
    rows = tuple(
        r._replace(state="lost")
        if r.state == "committed" and (r.block, r.token) not in tokens
        else r._replace(kept=kept)
        for r in host.rows
        if r.token not in gone
    )
    return _host(s, who, rows=rows, next=max(host.next, last + 1), doubted=False)


def _world(s: State, weak: frozenset[str]) -> Iterator[_STEP]:
    for message in sorted(s.wire):
        rest = s.wire - {message}
        if message.host != 1 and s.fenced and message.host == 0:
            continue  # fenced: nothing of it arrives
        cluster, answer = arrive(s.cluster, message, weak)
        host = s.hosts[message.host]
        if host.machine and host.etcd != s.etcd:  # it had blocks, and is not registered in this one
            cluster, answer = s.cluster, "another"
        after = s._replace(cluster=cluster, wire=rest)
        heard = host.alive and host.waiting == _words(message)
        what = f"{NAMES[message.host]}'s {message.verb} of {message.block} arrives"
        if heard and not host.heard:
            yield what, _host(after, message.host, heard=answer, answered=s.etcd)
            if s.budget.late:
                twice = _spend(after._replace(wire=s.wire), "late")
                yield (
                    f"{what}, and once more later",
                    _host(twice, message.host, heard=answer, answered=s.etcd),
                )
            if s.budget.lost:
                yield f"{what}, its answer is lost", _spend(after, "lost")
        else:
            yield f"{what} late", after
        if s.budget.lost:
            yield f"{what[: -len('arrives')]}is lost", _spend(s._replace(wire=rest), "lost")
    if s.budget.crashes:
        for who in (0, 1, 2):
            if s.hosts[who].alive and (s.hosts[who].waiting or s.hosts[who].heard):
                down = _host(_spend(s, "crashes"), who, waiting="", heard="")
                yield f"{NAMES[who]} is killed", down
    if s.budget.copies and not s.hosts[2].alive:
        twin = s.hosts[0]._replace(waiting="", heard="", alive=True, guests=frozenset())
        yield (
            "A is copied to another machine",
            _spend(s._replace(hosts=_with(s.hosts, 2, twin)), "copies"),
        )
    if s.budget.rollbacks:
        if s.old is None:
            yield "A's store is copied", s._replace(old=s.hosts[0]._replace(waiting="", heard=""))
        elif s.hosts[0].alive and not s.hosts[0].waiting:
            now = s.old._replace(doubted=True, guests=s.hosts[0].guests)
            yield (
                "A's store is put back",
                _spend(s._replace(hosts=_with(s.hosts, 0, now)), "rollbacks"),
            )
    yield from _forgets(s, weak)
    yield from _moved(s, weak)
    if s.budget.etcds:
        after = s._replace(cluster=Cluster(), wire=frozenset(), etcd=s.etcd + 1)
        yield "etcd is lost, and another one is there", _spend(after, "etcds")
    if "ttl" in weak and s.budget.pauses:
        for block, (installation, token) in s.cluster.blocks:
            blocks, claims = dict(s.cluster.blocks), dict(s.cluster.claims)
            blocks.pop(block)
            claims.pop(f"{installation} {token}", None)
            cluster = s.cluster._replace(
                blocks=tuple(sorted(blocks.items())), claims=tuple(sorted(claims.items()))
            )
            yield f"time frees {block}", _spend(s._replace(cluster=cluster), "pauses")


def _forgets(s: State, weak: frozenset[str]) -> Iterator[_STEP]:
    """A person ends A's guests and takes it off the network; then says so (`cluster forget`)."""
    if not s.budget.forgets or "a" not in dict(s.cluster.machines):
        return
    if not s.fenced and "forget-unfenced" not in weak:
        down = s.hosts[0]._replace(guests=frozenset(), alive=False)
        yield "A is fenced", s._replace(fenced=True, hosts=_with(s.hosts, 0, down))
        return
    blocks = {b: held for b, held in s.cluster.blocks if held[0] != "a"}
    claims = {key: b for key, b in s.cluster.claims if not key.startswith("a ")}
    machines = {**dict(s.cluster.machines), "a": FORGOTTEN}
    last = {i: n for i, n in s.cluster.last if i != "a"}
    cluster = _made(blocks, claims, machines, last)
    yield "a person says that A is gone", _spend(s._replace(cluster=cluster), "forgets")


def _moved(s: State, weak: frozenset[str]) -> Iterator[_STEP]:
    """A person ends A's guests and switches it off; then says so of its copy (`cluster register`)."""
    twin = s.hosts[2]
    registered = dict(s.cluster.machines).get("a") == MACHINES[0]
    if not (
        s.budget.registers and twin.alive and not twin.waiting and not twin.heard and registered
    ):
        return
    if not s.fenced and "register-unfenced" not in weak:
        down = s.hosts[0]._replace(guests=frozenset(), alive=False)
        yield "A is fenced", s._replace(fenced=True, hosts=_with(s.hosts, 0, down))
        return
    own = {held[1] for _, held in s.cluster.blocks if held[0] == "a"}
    rows = [r for r in twin.rows if r.state == "intended" or r.token in own]
    if any(r.used for r in twin.rows if r not in rows):
        return  # refused: its guests' block went back meanwhile
    granted = {key.split(" ")[1] for key, _ in s.cluster.claims}
    last = max(dict(s.cluster.last).get("a", 0), twin.next - 1)
    rows = [r for r in rows if r.state != "intended" or r.token in granted]
    machines = {**dict(s.cluster.machines), "a": MACHINES[2]}
    cluster = s.cluster._replace(
        machines=tuple(sorted(machines.items())),
        last=tuple(sorted({**dict(s.cluster.last), "a": last}.items())),
    )
    after = _spend(s._replace(cluster=cluster), "registers")
    changes = {"rows": tuple(rows), "machine": MACHINES[2], "next": last + 1}
    yield "a person says that A' has the blocks", _host(after, 2, **changes)


# -- what must hold --------------------------------------------------------------------------------


def not_own(s: State) -> str | None:
    """Whether a host leases from a block that is not its own; whoever has guests in it."""
    return violation(s._replace(hosts=tuple(h._replace(guests=frozenset()) for h in s.hosts)))


def two_owners(s: State) -> str | None:
    """Whether two hosts have guests in one block."""
    by_block: dict[str, set[int]] = {}
    for who, host in enumerate(s.hosts):
        for block in host.guests:
            by_block.setdefault(block, set()).add(who)
    if any(len(owners) > 1 for owners in by_block.values()):
        return "guests of two hosts have addresses of one block"
    return None


def violation(s: State) -> str | None:
    """What is wrong in a state."""
    if wrong := two_owners(s):
        return wrong
    held = dict(s.cluster.blocks)
    for who, host in enumerate(s.hosts):
        used = [r.block for r in host.rows if r.state == "committed" and r.used]
        if len(set(used)) != len(used):
            return "a host has one block twice"
        for row in host.rows:
            if row.state != "committed" or host.doubted or (who == 0 and s.fenced):
                continue
            if host.etcd != s.etcd or (
                host.machine != MACHINES[who] and row.block not in host.guests
            ):
                continue  # it does not lease
            if held.get(row.block) != (INSTALLATIONS[who], row.token):
                return "a host leases from a block that is not its own"
    return None


def leak(s: State) -> str | None:
    """In a state where nothing is under way: a block that nobody knows and nobody can give back."""
    if s.wire or any(h.waiting or h.heard or h.doubted for h in s.hosts):
        return None
    for block, (installation, token) in s.cluster.blocks:
        known = {
            r.token
            for who, host in enumerate(s.hosts)
            if INSTALLATIONS[who] == installation
            for r in host.rows
        }
        if token not in known and s.old is None and not s.fenced:
            return f"block {block} is a host's that does not know of it"
    return None


def anything(s: State) -> str | None:
    """Whatever may not be."""
    return violation(s) or leak(s)


def search(
    world: World,
    weak: frozenset[str] = frozenset(),
    judge: Callable[[State], str | None] = anything,
    *,
    most: int = 400_000,
) -> Found:
    """Breadth first; the shortest way to the first state that ``judge`` says something of."""
    assert weak <= RULES

    def steps(state: State) -> Iterator[tuple[str, State]]:
        for who in (0, 1, 2):
            yield from _moves(state, who, weak)
        yield from _world(state, weak)

    return explore(State(budget=world), steps, judge, most)
