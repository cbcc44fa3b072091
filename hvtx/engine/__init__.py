"""What the verbs (:mod:`hvtx.commands`) are made of, around the one transaction."""
