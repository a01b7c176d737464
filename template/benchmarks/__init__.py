"""The speed of each endpoint, and of two versions side by side: `nox -s bench`."""
