"""An etcd of three members and two hosts, each in a network namespace, on a switch of the tests' own.

Nothing is installed: Debian's package is taken apart in the cache.
"""
