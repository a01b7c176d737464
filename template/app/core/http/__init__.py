"""HTTP: errors as problem documents, limits, serialization and the routes of the application."""
