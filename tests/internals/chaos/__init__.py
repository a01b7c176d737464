"""Faults of servers under load: `python -m tests.internals.chaos` runs them in this service."""
