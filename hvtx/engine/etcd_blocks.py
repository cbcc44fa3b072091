"""Blocks from etcd: each question is one transaction, which comes to the same when asked twice.

Keys, below the prefix of the configuration:

``networks/NAME``            the subnet and the size of a block, the same for every host
``hosts/INSTALLATION/…``     ``machine``: whose the installation is (CAS, never overwritten but by
                             ``forgotten``); ``last``: its newest claim; ``about``: name, address
``blocks/NAME/CIDR``         whose a block is: installation and token (CAS)
``claims/INSTALLATION/TOKEN``  the block that a claim got: the same token is answered the same

No key has a lease of etcd's: time frees nothing.
"""

from __future__ import annotations

from hvtx.engine import notice
from hvtx.engine.etcd_hosts import NUMBER, EtcdHosts, first
from hvtx.engine.etcd_values import block_of_key, claim_of_value, granted, number_of
from hvtx.errors import Busy, Conflict, Refused
from hvtx.host import etcd, failpoint
from hvtx.model.block import Block, Held, Pool
from hvtx.planner.blocks import FORGOTTEN, Answer, Verdict, candidates, free_block, is_of, verdict

_TURNS = 64  # answers that change under us: others are as quick


class EtcdBlocks(EtcdHosts):
    """The source ``etcd``. Its calls raise Busy where nobody answers (unknown: ask again)."""

    name = "etcd"
    counts = True  # claims: a host's number never goes down
    where_blocks_are = (
        "hvtx cluster status tells who has them; remove VMs there, or make a network with a larger"
        " subnet"
    )

    def claim(self, pool: Pool, token: str) -> str | None:
        """A block for this token: the same one each time. None: all are held.

        Raises Busy (unknown), Conflict, Refused.
        """
        listed = False
        tries = iter(candidates(pool, token))
        cidr = next(tries)
        for _ in range(_TURNS):
            answer, won = self._try(pool, token, cidr)
            if won:
                return cidr
            found = self._judge(answer, pool, token)
            if found is Verdict.OURS:
                assert answer.claimed is not None
                return self._granted(pool, token, answer.claimed)
            if found is Verdict.UNREGISTERED:
                self._register()
            elif found is Verdict.UNDEFINED:
                self.define(pool)
            elif found is Verdict.TAKEN:
                following = None if listed else next(tries, None)
                if following is None:
                    listed = True
                    following = free_block(pool, self._held(pool), token)
                if following is None:
                    return self.end(pool, token)
                cidr = following
        raise Busy("too many hosts claim blocks at once", hint="try again")

    def has_free(self, pool: Pool) -> bool:
        """Whether a claim could be granted now."""
        return free_block(pool, self._held(pool), "") is not None

    def end(self, pool: Pool, token: str) -> str | None:
        """End a claim that nothing is left for; its block after all, if it had one.

        A question of it that is still under way could be granted a block later, which nobody would
        know: the number counts as used from here on.
        """
        who, number = self.who, token[:NUMBER]
        last = self._key("hosts", who.installation, "last")
        claimed = self._claim_key(who.installation, token)
        reply = self._txn(
            [etcd.absent(claimed), etcd.less(last, number)],
            [etcd.put(last, number)],
            [etcd.get(claimed)],
        )
        known = None if reply.succeeded else first(reply.found[0])
        return None if known is None else self._granted(pool, token, known)

    def _granted(self, pool: Pool, token: str, value: str) -> str:
        """The block of a claim that is known. Raises HostRefused for what hvtx did not write."""
        cidr = granted(value, pool)
        if cidr is None:
            raise self._unreadable(self._claim_key(self.who.installation, token), value)
        return cidr

    def mine(self) -> list[Held]:
        """What this host has. Raises HostRefused for a claim that hvtx did not write."""
        who = self.who
        reply = self._read(etcd.below(self._key("claims", who.installation, "")))
        found = []
        for kv in reply.found[0]:
            claimed, token = claim_of_value(kv.value), kv.key.rpartition("/")[2]
            if claimed is None or number_of(token.partition(".")[0]) is None:
                raise self._unreadable(kv.key, kv.value)
            found.append(Held(*claimed, who.installation, token, who.host, who.address))
        return found

    def release(self, block: Held) -> None:
        """Give a block back, if it is still that claim's. Raises Busy (unknown), Refused.

        A copy of this host has the same tokens on record, and gives nothing back.
        """
        own = block.installation == self.who.installation
        key = self._block_key(block.network, block.cidr)
        machine = self._key("hosts", block.installation, "machine")
        reply = self._txn(
            [
                etcd.equal(machine, self.who.machine if own else FORGOTTEN),
                etcd.equal(key, _value(block.installation, block.token)),
            ],
            [etcd.delete(key), etcd.delete(self._claim_key(block.installation, block.token))],
            [etcd.get(machine)],
        )
        known = None if reply.succeeded else first(reply.found[0])
        if own and known not in (None, self.who.machine, FORGOTTEN):
            raise self._not_this_host(known)

    def holders(self, network: str | None = None) -> list[Held]:
        """Who has which block, of a network or of all; keys that are no block's are told of."""
        prefix = self._key("blocks", *((network, "") if network else ("",)))
        reply = self._read(etcd.below(prefix), etcd.below(self._key("hosts", "")))
        hosts = {one.installation: one for one in self._members(reply.found[1])}
        begin, found = len(self._key("blocks", "")), []
        for kv in reply.found[0]:
            held = block_of_key(kv.key[begin:], kv.value)
            if held is None:
                notice.warning(f"left out: {self._unreadable(kv.key, kv.value).message}")
                continue
            host = hosts.get(held.installation)
            about = (host.host, host.address) if host else ("", None)
            found.append(Held(*held[:4], *about))
        return found

    def forget(self, installation: str) -> list[Held]:
        """Free the blocks of a host that somebody says is gone; which they were.

        It is fenced first: from there on none of its claims is granted. Raises Busy (ask again).
        """
        self._txn([], [etcd.put(self._key("hosts", installation, "machine"), FORGOTTEN)])
        failpoint.reach("fenced:host")
        gone = [one for one in self.holders() if one.installation == installation]
        for one in gone:
            self.release(one)
        self._txn([], [etcd.delete(self._key("hosts", installation, "last"))])
        return gone

    def put_back(self, block: Held, was: Held | None) -> bool:
        """Have a block in an etcd that does not have it for this claim; False: somebody else has.

        ``was`` is an earlier claim of this host, which that etcd has the block for. Raises Busy.
        """
        key = self._block_key(block.network, block.cidr)
        value = _value(block.installation, block.token)
        name = self._claim_key(block.installation, block.token)
        machine = self._key("hosts", block.installation, "machine")
        reply = self._txn(
            [
                etcd.equal(machine, self.who.machine),
                etcd.absent(key)
                if was is None
                else etcd.equal(key, _value(was.installation, was.token)),
            ],
            [
                etcd.put(key, value),
                etcd.put(name, f"{block.network} {block.cidr}"),
                *(
                    []
                    if was is None
                    else [etcd.delete(self._claim_key(was.installation, was.token))]
                ),
            ],
            [etcd.get(key)],
        )
        return reply.succeeded or first(reply.found[0]) == value

    def define(self, pool: Pool) -> bool:
        """Say what a network is; False: it is known already. Raises Conflict (another), Busy."""
        key, wanted = self._key("networks", pool.network), _definition(pool)
        reply = self._txn([etcd.absent(key)], [etcd.put(key, wanted)], [etcd.get(key)])
        if not reply.succeeded and first(reply.found[0]) not in (wanted, None):
            raise _another(pool, first(reply.found[0]) or "")
        return reply.succeeded

    def check(self, pool: Pool) -> None:
        """Raise Conflict if the network is another on other hosts; says nothing itself."""
        found = first(self._read(etcd.get(self._key("networks", pool.network))).found[0])
        if found not in (_definition(pool), None):
            raise _another(pool, found or "")

    def undefine(self, network: str) -> None:
        """Forget what a network is, if no host has a block of it."""
        blocks = etcd.none_below(self._key("blocks", network, ""))
        self._txn([blocks], [etcd.delete(self._key("networks", network))])

    def _try(self, pool: Pool, token: str, cidr: str) -> tuple[Answer, bool]:
        who, number = self.who, token[:NUMBER]
        place = "hosts", who.installation
        machine, last = self._key(*place, "machine"), self._key(*place, "last")
        claimed, block = (
            self._claim_key(who.installation, token),
            self._block_key(pool.network, cidr),
        )
        network = self._key("networks", pool.network)
        reply = self._txn(
            [
                etcd.absent(claimed),
                etcd.equal(machine, who.machine),
                etcd.less(last, number),
                etcd.equal(network, _definition(pool)),
                etcd.absent(block),
            ],
            [
                etcd.put(block, _value(who.installation, token)),
                etcd.put(claimed, f"{pool.network} {cidr}"),
                etcd.put(last, number),
            ],
            [etcd.get(key) for key in (claimed, machine, last, network, block)],
        )
        if reply.succeeded:
            return Answer(None, None, None, None, None), True
        answer = Answer(*(first(found) for found in reply.found))
        return answer, False

    def _judge(self, answer: Answer, pool: Pool, token: str) -> Verdict:
        """What a refused claim means; raises what ends it."""
        wanted = _definition(pool)
        found = verdict(answer, number=token[:NUMBER], machine=self.who.machine, definition=wanted)
        if found is Verdict.OTHER_NETWORK:
            raise _another(pool, answer.definition or "")
        if found in (Verdict.CLONED, Verdict.FORGOTTEN):
            raise self._not_this_host(answer.machine or "")
        if found is Verdict.SPENT:
            raise Refused(
                "store-rolled-back",
                f"the cluster has claim {self._number(answer.last)} of this installation, and the"
                f" store is only at {int(token[:NUMBER])}: it is an older copy, or is used twice",
                hint="hvtx recover --accept-rollback",
            )
        return found

    def _held(self, pool: Pool) -> list[str]:
        reply = self._read(etcd.below(self._key("blocks", pool.network, ""), keys_only=True))
        keys = (kv.key.rpartition("/")[2].replace("_", "/") for kv in reply.found[0])
        return [cidr for cidr in keys if is_of(pool, cidr)]

    def _block_key(self, network: str, cidr: str) -> str:
        return self._key("blocks", network, cidr.replace("/", "_"))

    def _claim_key(self, installation: str, token: str) -> str:
        return self._key("claims", installation, token)


def held(block: Block, installation: str) -> Held:
    """A block of the store as the source knows it."""
    assert block.cidr is not None
    return Held(block.pool.network, block.cidr, installation, block.token)


def _value(installation: str, token: str) -> str:
    return f"{installation} {token}"


def _definition(pool: Pool) -> str:
    return f"{pool.subnet} {pool.size}"


def _another(pool: Pool, there: str) -> Conflict:
    subnet, _, size = there.partition(" ")
    name = pool.network
    return Conflict(
        f"network {name!r} is {subnet} in blocks of /{size} in the cluster, not"
        f" {pool.subnet} in blocks of /{pool.size}",
        hint=f"hvtx network create {name} --subnet {subnet} --block-size {size}, or another name;"
        f" where no host has it any more, hvtx network rm {name} after that forgets it",
        code="network-differs",
    )
