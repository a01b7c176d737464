"""FastAPI, asyncpg and orjson by hand: the bar."""
