"""How many statements a block may send to the database."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from app.core.database.queries import Queries


class QueryBudget:
    """`with queries.at_most(2): ...`; a test that spends more shows its statements."""

    @contextmanager
    def at_most(self, number: int) -> Iterator[Queries]:
        with Queries() as queries:
            yield queries
        if len(queries.statements) > number:
            self._fail(f"at most {number}", queries)

    @contextmanager
    def exactly(self, number: int) -> Iterator[Queries]:
        with Queries() as queries:
            yield queries
        if len(queries.statements) != number:
            self._fail(f"{number}", queries)

    def _fail(self, budget: str, queries: Queries) -> None:
        shown = "\n".join(f"{n}. {sql}" for n, sql in enumerate(queries.statements, 1))
        pytest.fail(
            f"the budget is {budget} statements, sent were {len(queries.statements)}:\n{shown}",
            pytrace=False,
        )
