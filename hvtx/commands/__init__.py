"""The verbs, one module each: what a command does, over the mechanism in hvtx/engine."""
