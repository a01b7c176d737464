"""Computations for the pools: a module that imports nothing else, as a process needs it."""

from time import perf_counter


def nothing(number: int) -> int:
    """Return the number."""
    return number


def compute(seconds: float) -> float:
    """Hold a core, and Python's lock, for so long."""
    end = perf_counter() + seconds
    while perf_counter() < end:
        pass
    return seconds
