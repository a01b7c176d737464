"""The response cache: a shared cache by RFC 9111 in front of the router."""
