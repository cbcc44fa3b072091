"""The checks of `doctor`, by what they look at; commands/doctor.py has their names."""
