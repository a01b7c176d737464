"""Measures claims of common advice on this machine, each side by side in one run: `nox -s claims`."""
