"""Embedded servers for development and tests: no Docker, no root, nothing to set up.

Throw-away servers: durability is off and their data is deleted with them. Never for production.
"""
