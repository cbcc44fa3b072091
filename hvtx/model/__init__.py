"""The vocabulary: plain immutable values that every other room speaks in.

Value types are ``NamedTuple`` and ``TypedDict``, not dataclasses: a frozen slotted dataclass
costs over a millisecond each at import, and `hvtx vm start` imports all of them (docs/adr/0003).
"""
