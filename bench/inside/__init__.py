"""What runs inside the namespaces of a measurement, by the Python of the build that is measured.

Nothing here imports `bench` of this checkout: a build of another commit brings its own.
"""
