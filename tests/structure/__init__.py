"""The structure of the program, read from its source: what is counted, and how much is allowed."""
