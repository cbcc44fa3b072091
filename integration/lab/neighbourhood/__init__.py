"""hvtx beside the daemons that other hosts run: a real systemd, their own units, real traffic."""
