"""What the ORM has written, as a read shows it: PostgreSQL rounds, pads and generates values."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from sqlalchemy import inspect, select, tuple_
from sqlalchemy.orm import Mapper, Session
from sqlalchemy.orm.attributes import set_committed_value

# A statement has at most 32,767 parameters.
ROWS = 1000


def flush(session: Session) -> None:
    """Send the pending changes, and read the rows of the changed entities back.

    Without that, an entity shows the values that Python gave it, such as `Decimal("0.1")` where a
    read of NUMERIC(10, 2) shows `Decimal("0.10")`. One SELECT for each class.
    """
    changed = defaultdict(list)
    for entity in (*session.new, *session.dirty):
        changed[inspect(entity).mapper].append(entity)
    session.flush()
    for mapper, entities in changed.items():
        for start in range(0, len(entities), ROWS):
            _read_back(session, mapper, entities[start : start + ROWS])


def _read_back(session: Session, mapper: Mapper[Any], entities: Iterable[object]) -> None:
    by_identity = {inspect(entity).identity: entity for entity in entities}
    columns = [each.class_attribute for each in mapper.column_attrs if not each.deferred]
    key = mapper.primary_key
    rows = session.execute(select(*key, *columns).where(tuple_(*key).in_(list(by_identity))))
    for row in rows:
        entity = by_identity[tuple(row[: len(key)])]
        for column, value in zip(columns, row[len(key) :], strict=True):
            set_committed_value(entity, column.key, value)
