"""The commands, through the whole program."""
