"""The command line: options in, engine called, results rendered."""
