"""Who calls: names for callers, and the protection of routes."""
