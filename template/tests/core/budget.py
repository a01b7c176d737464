"""The statements that a test sends: their number, and their plans."""

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from app.core.database import database
from app.core.telemetry.activity import Activity, current


class Queries(Activity):
    """The SQL of each statement that a block and the tasks that it starts send."""

    def __init__(self) -> None:
        super().__init__()
        self.statements: list[str] = []

    def sent(self, sql: str) -> None:
        self.statements.append(sql)


class QueryBudget:
    """`with queries.at_most(2): ...` fails with the statements if the block sends more."""

    def exactly(self, number: int) -> AbstractContextManager[Queries]:
        return self._between(number, number)

    def at_most(self, number: int) -> AbstractContextManager[Queries]:
        return self._between(0, number)

    @contextmanager
    def _between(self, least: int, most: int) -> Iterator[Queries]:
        queries = Queries()
        token = current.set(queries)
        try:
            yield queries
        finally:
            current.reset(token)
        sent = len(queries.statements)
        if not least <= sent <= most:
            lines = [f"the budget is {least} to {most} statements, sent were {sent}:"]
            pytest.fail("\n".join(lines + queries.statements), pytrace=False)


async def plan(sql: str) -> str:
    """Return PostgreSQL's plan of a statement for large tables, with each index that fits."""
    number = max(map(int, re.findall(r"\$(\d+)", sql)), default=0)
    values = f"({', '.join(['NULL'] * number)})" if number else ""
    async with database.engine.connect() as connection:
        # PostgreSQL would read the small tables of tests whole and sort them.
        for setting in ("enable_seqscan", "enable_bitmapscan", "enable_sort"):
            await connection.exec_driver_sql(f"SET LOCAL {setting} = off")
        await connection.exec_driver_sql("SET LOCAL plan_cache_mode = force_generic_plan")
        await connection.exec_driver_sql(f"PREPARE explained AS {sql}")
        lines = await connection.exec_driver_sql(f"EXPLAIN EXECUTE explained{values}")
        found = "\n".join(lines.scalars())
        await connection.exec_driver_sql("DEALLOCATE explained")
    return found
