"""One process of a host that claims blocks and gives them back until it is told to end.

    python -m integration.lab.cluster.worker BASE HOST SEED

What it has it also says in `BASE/held`: a file for each block, made before the first address could be
leased from it and removed before it is given back. So two that have one block meet there at once.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import time
from contextlib import closing
from pathlib import Path

from hvtx.api.cluster_settings import parse
from hvtx.engine.blocks import Blocks, opened
from hvtx.engine.runtime import Runtime, Settings
from hvtx.errors import Busy
from hvtx.model.block import Block, BlockState, Pool
from hvtx.store import blocks as rows

MOST = 30  # blocks of a host
POOL = Pool("lab", "10.64.0.0/12", 26)


def settings(base: Path, host: str) -> Settings:
    """A host's settings, by its configuration."""
    import tomllib

    path = base / f"{host}.toml"
    found = tomllib.loads(path.read_text())
    return Settings(
        state_directory=str(base / f"{host}.state"),
        run_directory=str(base / f"{host}.run"),
        cluster=parse(found["cluster"], str(path)),
    )


class Worker:
    """Who claims."""

    def __init__(self, base: Path, host: str, runtime: Runtime, blocks: Blocks, seed: int) -> None:
        self._held, self._host = base / "held", host
        self._runtime, self._blocks = runtime, blocks
        self._chance = random.Random(seed)
        self._said: set[int] = set()
        self._counts = {
            what: (base / f"{what}.{host}.{os.getpid()}").open("ab", buffering=0)
            for what in ("claims", "busy", "returns")
        }

    def count(self, what: str) -> None:
        """One more: a byte, which a kill does not take back."""
        self._counts[what].write(b".")

    def turn(self) -> None:
        """One claim, or one return."""
        self._runtime.lock("all", "blocks")
        try:
            self._blocks.ask_again()
            known = [b for b in self._runtime.read(rows.blocks) if b.cidr is not None]
            mine = [b for b in known if b.state is BlockState.COMMITTED]
            self._said &= {block.id for block in mine}
            for block in mine:
                if block.id not in self._said:  # of one that was killed before it could say so
                    self._say(block)
            for block in known:
                if block.state is BlockState.RELEASING:
                    self._return(block)
            if len(mine) < MOST and (len(mine) < MOST // 2 or self._chance.random() < 0.5):
                self._say(self._blocks.take(POOL))
                self.count("claims")
            else:
                block = self._chance.choice(mine)
                assert block.cidr is not None
                (self._held / block.cidr.replace("/", "_")).unlink(missing_ok=True)
                with self._runtime.store.transaction() as sql:
                    going = rows.release(sql, [block])
                self._return(going[0])
        except Busy:
            self.count("busy")
            time.sleep(0.02)
        finally:
            self._runtime.unlock("all", "blocks")

    def _return(self, block: Block) -> None:
        self._blocks._give_back(block)
        self.count("returns")

    def _say(self, block: Block) -> None:
        assert block.cidr is not None
        self._said.add(block.id)
        path = self._held / block.cidr.replace("/", "_")
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            said = path.read_text()
            # empty: whoever made it was killed in between, and its host says it again
            if said not in ("", self._host):
                (self._held.parent / "violation").write_text(f"{block.cidr}: {said}, {self._host}")
                raise SystemExit(f"{block.cidr} is {said}'s and {self._host}'s") from None
            if not said:
                path.write_text(self._host)
            return
        os.write(descriptor, self._host.encode())
        os.close(descriptor)


def main(base: Path, host: str, seed: int) -> None:
    """Work until SIGTERM."""
    ended: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: ended.append(number))
    with (
        closing(Runtime(settings(base, host), writable=True)) as runtime,
        opened(runtime) as blocks,
    ):
        worker = Worker(base, host, runtime, blocks, seed)
        while not ended:
            with contextlib.suppress(Busy):  # of the store
                worker.turn()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
