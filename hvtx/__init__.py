"""hvtx: a transactional manager for the network resources of virtual machines."""

__version__ = "0.1.0"
