"""Random sequences of commands, crashes and others' acts, on a fake kernel and on the real one."""
