"""How the cost of the rendered service grows with rows, cache entries, clients, workers and instances."""
