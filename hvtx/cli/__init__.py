"""The command line: options in, :mod:`hvtx.api` called, results rendered."""
