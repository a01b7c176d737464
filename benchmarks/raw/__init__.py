"""Plain ASGI, asyncpg and orjson: the limit."""
