"""What guests, other users and broken-out hypervisors try."""
