"""How PostgreSQL would run a statement on tables as large as tables get."""

import re

from app.core.database import database


async def plan(sql: str) -> str:
    """The plan that serves any parameters, with indexes wherever there is one that fits."""
    number = max(map(int, re.findall(r"\$(\d+)", sql)), default=0)
    values = f"({', '.join(['NULL'] * number)})" if number else ""
    async with database.engine.connect() as connection:
        # Tables as small as in tests are read whole and sorted unless that is ruled out.
        for setting in ("enable_seqscan", "enable_bitmapscan", "enable_sort"):
            await connection.exec_driver_sql(f"SET LOCAL {setting} = off")
        await connection.exec_driver_sql("SET LOCAL plan_cache_mode = force_generic_plan")
        await connection.exec_driver_sql(f"PREPARE explained AS {sql}")
        lines = (await connection.exec_driver_sql(f"EXPLAIN EXECUTE explained{values}")).scalars()
        found = "\n".join(lines)
        await connection.exec_driver_sql("DEALLOCATE explained")
    return found
