"""The checks of `doctor`, by what they look at; engine/diagnose.py has their names."""
