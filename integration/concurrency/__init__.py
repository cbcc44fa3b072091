"""Several processes at once."""
