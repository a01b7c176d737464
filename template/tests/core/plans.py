"""The plan of a statement, as PostgreSQL makes it for large tables."""

import re

from app.core.database import database


async def plan(sql: str) -> str:
    """Return the plan for any parameters, which uses each index that fits."""
    number = max(map(int, re.findall(r"\$(\d+)", sql)), default=0)
    values = f"({', '.join(['NULL'] * number)})" if number else ""
    async with database.engine.connect() as connection:
        # PostgreSQL would read the small tables of tests whole and sort them.
        for setting in ("enable_seqscan", "enable_bitmapscan", "enable_sort"):
            await connection.exec_driver_sql(f"SET LOCAL {setting} = off")
        await connection.exec_driver_sql("SET LOCAL plan_cache_mode = force_generic_plan")
        await connection.exec_driver_sql(f"PREPARE explained AS {sql}")
        lines = (await connection.exec_driver_sql(f"EXPLAIN EXECUTE explained{values}")).scalars()
        found = "\n".join(lines)
        await connection.exec_driver_sql("DEALLOCATE explained")
    return found
