"""The CNI plugin: environment and configuration in, a JSON object and an exit code out.

It stands beside :mod:`hvtx.cli` and calls the library as that does (docs/cni.md). Container
runtimes run it (specification 0.3.0 to 1.1.0), by the executable that ``hvtx cni install`` writes.
"""
