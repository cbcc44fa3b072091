"""A kernel of plain Python objects, for the real program to run on (see :mod:`tests.fake.install`)."""
