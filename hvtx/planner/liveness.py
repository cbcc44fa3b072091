"""Liveness of a VM process: ``alive``, ``dead`` or, in doubt, ``unknown``."""

from __future__ import annotations

from hvtx.model.vm import Identity, Liveness, ProcessFacts


def classify(
    identity: Identity, boot_id: str, facts: ProcessFacts
) -> tuple[Liveness, tuple[str, ...]]:
    """Judge a recorded identity against what was seen of its pid; the evidence is for people."""
    name = f"pid {identity.pid} started {identity.start}"
    if identity.boot_id != boot_id:
        return Liveness.DEAD, (f"{name} belonged to another boot ({identity.boot_id})",)
    if facts.error:
        return Liveness.UNKNOWN, (f"{name} could not be inspected: {facts.error}",)
    if not facts.exists:
        return Liveness.DEAD, (f"{name} is gone",)
    if facts.start != identity.start:
        return Liveness.DEAD, (f"{name} is gone; its pid now belongs to one started {facts.start}",)
    if identity.inode and facts.inode and identity.inode != facts.inode:
        return Liveness.DEAD, (f"{name} is gone; its pid now belongs to another process",)
    if facts.ended:
        return Liveness.DEAD, (f"{name} has ended and waits for its parent",)
    return Liveness.ALIVE, (f"{name} runs",)
