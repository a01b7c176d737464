"""`plain` with another garbage collection."""
