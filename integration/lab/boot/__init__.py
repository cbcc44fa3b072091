"""A whole host to boot: its image, and the two ways to run it (a container, a machine)."""
