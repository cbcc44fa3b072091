"""The verbs, one module each, around the one transaction."""
