"""How far each axis is measured."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Sizes:
    """`model_clients` are those with which each number of workers is measured: the model is compared with them."""

    rows: tuple[int, ...]
    tags: tuple[int, ...]
    entries: tuple[int, ...]
    clients: tuple[int, ...]
    workers_of_clients: int
    workers: tuple[int, ...]
    model_clients: tuple[int, ...]
    instances: tuple[int, ...]
    seconds: float

    def up_to(self, max_rows: int) -> "Sizes":
        """Return the same sizes with at most so many rows, but two sizes at least."""
        return replace(self, rows=self.rows[:2] + tuple(rows for rows in self.rows[2:] if rows <= max_rows))


FULL = Sizes(
    rows=(1_000, 10_000, 100_000, 1_000_000, 10_000_000),
    tags=(1, 10, 100, 1_000),
    entries=(100, 1_000, 10_000, 100_000, 1_000_000),
    clients=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000),
    workers_of_clients=2,
    workers=(1, 2, 4, 8),
    model_clients=(1, 2, 4, 8, 16, 40),
    instances=(1, 2, 4, 8, 16, 32, 64),
    seconds=2.0,
)
QUICK = Sizes(
    rows=(1_000, 10_000),
    tags=(1, 100),
    entries=(100, 1_000),
    clients=(1, 16),
    workers_of_clients=1,
    workers=(1,),
    model_clients=(1, 8, 16),
    instances=(1, 32),
    seconds=0.3,
)
