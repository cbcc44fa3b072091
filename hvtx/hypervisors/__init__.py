"""Hypervisors: pure renderings of a VM into what is to be started."""
