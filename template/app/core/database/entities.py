"""The ORM session of a `WriteSession`, whose flushed entities have the database's values."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from sqlalchemy import cast, inspect, select, tuple_
from sqlalchemy.orm import Mapper, Session
from sqlalchemy.orm.attributes import set_committed_value

# 1,000 rows of a key with 32 columns stay below the driver's 32,767 parameters.
ROWS_AT_ONCE = 1000


class EntitySession(Session):
    """Reads flushed entities back: one SELECT for up to `ROWS_AT_ONCE` entities of a class.

    Otherwise an entity shows the values that Python gave it, such as `Decimal("0.1")` where a read
    of NUMERIC(10, 2) shows `Decimal("0.10")`. Triggers, CHAR and generated columns differ as well.
    An entity whose key the database stores in another form takes another SELECT.
    """

    def flush(self, objects: Sequence[Any] | None = None) -> None:
        changed = defaultdict(list)
        for entity in (*self.new, *self.dirty):
            changed[inspect(entity).mapper].append(entity)
        super().flush(objects)
        for mapper, entities in changed.items():
            for start in range(0, len(entities), ROWS_AT_ONCE):
                self._read_back(mapper, entities[start : start + ROWS_AT_ONCE])

    def _read_back(self, mapper: Mapper[Any], entities: Sequence[object]) -> None:
        by_identity = {inspect(entity).identity: entity for entity in entities}
        columns = [each.class_attribute for each in mapper.column_attrs if not each.deferred]
        key = mapper.primary_key
        rows = self.execute(select(*key, *columns).where(tuple_(*key).in_(list(by_identity))))
        found = [(by_identity.pop(tuple(row[: len(key)]), None), row[len(key) :]) for row in rows]
        # The database has padded or rounded the other keys: the cast does the same.
        for identity, entity in by_identity.items():
            parts = zip(key, identity, strict=True)
            stored = [column == cast(value, column.type) for column, value in parts]
            found += [(entity, row) for row in self.execute(select(*columns).where(*stored))]
        for entity, row in found:
            if entity is not None:
                for column, value in zip(columns, row, strict=True):
                    set_committed_value(entity, column.key, value)
