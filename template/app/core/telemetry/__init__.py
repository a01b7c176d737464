"""Telemetry: what requests do and cost, for logs, metrics and traces."""
