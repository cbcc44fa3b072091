"""What the command line is called; apart, so that nothing is loaded for it."""

PROGRAM = "hvtx"
