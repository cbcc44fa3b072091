"""Blocks of addresses: what a cluster gives to one host, and this host to its guests."""

from __future__ import annotations

from collections.abc import Mapping

from hvtx.model.address import family_of
from hvtx.model.typed import NamedTuple, StrEnum

SOURCES = ("static", "etcd")


class Cluster(NamedTuple):
    """The table ``[cluster]`` of the configuration."""

    source: str  # one of SOURCES
    blocks: Mapping[str, tuple[str, ...]] = {}  # static: by network
    endpoints: tuple[str, ...] = ()  # of etcd: "https://10.0.0.1:2379"
    ca: str | None = None  # files in PEM
    cert: str | None = None
    key: str | None = None
    prefix: str = "/hvtx"  # of all keys
    address: str | None = None  # by which other hosts reach the guests of this one
    timeout: float = 5.0  # seconds, for one question to all endpoints together


class Pool(NamedTuple):
    """A network as all hosts of a cluster have it: its name, its subnet, the size of a block."""

    network: str
    subnet: str
    size: int  # prefix length of a block


class BlockState(StrEnum):
    """What is known of a block."""

    INTENDED = "intended"  # asked for; the answer is not on record
    COMMITTED = "committed"  # this host's
    RELEASING = "releasing"  # to be given back; no address of it is leased again
    LOST = "lost"  # the cluster says that it is not this host's


class Block(NamedTuple):
    """A row of the store: a block, or the claim of one."""

    id: int
    nonce: str
    pool: Pool
    cidr: str | None
    state: BlockState
    since: str  # RFC 3339
    kept: bool = False  # of an older store: guests that it does not know may have addresses of it
    used: int = 0  # leases in it

    @property
    def addresses(self) -> int:
        """How many it has."""
        return 1 << ((32 if family_of(self.pool.subnet) == 4 else 128) - self.pool.size)

    @property
    def token(self) -> str:
        """What the claim is known by: its number, which sorts as text, and a nonce."""
        return f"{self.id:012d}.{self.nonce}"


class Held(NamedTuple):
    """A block as the source knows it."""

    network: str
    cidr: str
    installation: str  # whose it is; "": this host's, by its own configuration
    token: str
    host: str = ""  # the holder's name, as it registered
    address: str | None = None  # where its guests are reached


class BlockStep(NamedTuple):
    """A line of gc's plan about blocks."""

    action: str  # compare, ask-again, give-back
    reason: str
    network: str | None
    cidr: str | None  # None: of a claim that has no answer, or of all blocks
    claim: str  # the token; of all blocks ""
    message: str  # a sentence for a person
    outcome: str | None = None  # done, failed


class Member(NamedTuple):
    """A host that registered."""

    installation: str
    forgotten: bool
    host: str = ""
    address: str | None = None


class Who(NamedTuple):
    """The host itself, as it registers."""

    installation: str
    machine: str  # a digest of the machine id
    host: str
    address: str | None
    known: bool = False  # an etcd has answered a claim of it: it is registered there
