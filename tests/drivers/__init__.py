"""What every driver must do, on a fake kernel and on the real one."""
