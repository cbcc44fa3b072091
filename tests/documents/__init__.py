"""The JSON of the interface, to the letter."""
