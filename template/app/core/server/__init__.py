"""The server: gunicorn's worker, its protocol, addresses and the stop."""
