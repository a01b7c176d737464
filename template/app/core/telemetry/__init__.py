"""Telemetry: the id, the timing and the log of each request, and what else it reports."""
