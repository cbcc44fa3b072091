"""The mark by which people and programs are told of a row."""

from __future__ import annotations

from hvtx.model.resource import Kind, Resource, address_spec


def owner_mark(row: Resource) -> str:
    """The mark of the device or record that it belongs to; empty where it has none.

    That is its own, but for an address, of which that stands nowhere: its bridge's, by which it is
    known.
    """
    return address_spec(row)["owner"] if row.kind == Kind.ADDRESS and row.mark else row.mark
