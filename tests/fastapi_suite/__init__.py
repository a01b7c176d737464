"""FastAPI's own tests, with compiled handlers wherever they apply."""
