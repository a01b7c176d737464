"""Embedded servers for development and tests, without Docker, root and set-up.

Not for production: they are not durable, and their data is deleted with them.
"""
