"""The columns of a schema, so that no SELECT repeats the fields of a Pydantic model by hand."""

from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel
from sqlalchemy import Label, inspect
from sqlalchemy.orm import DeclarativeBase


def columns_of(
    schema: type[BaseModel], model: type[DeclarativeBase], **expressions: Any
) -> list[Label[Any]]:
    """Return the columns of `model` that have the names of the fields of `schema`.

    They are labelled with the names in JSON: the alias of a field, if there is one. A field whose
    type is a schema, such as `customer: CustomerRead | None`, takes the columns of the relationship
    `customer`, which the statement joins. `expressions` are the other fields, by their names:

        select(*columns_of(OrderRead, Order, total=func.sum(Item.price))).join(Order.customer)

    Raises:
        ValueError: when a field is no column, relationship or expression, or the reverse.
    """
    if unknown := expressions.keys() - schema.model_fields:
        raise ValueError(f"{schema.__name__} has no field {', '.join(sorted(unknown))}")
    mapper = inspect(model)
    labelled: list[Label[Any]] = []
    for name, field in schema.model_fields.items():
        nested = _schema_in(field.annotation)
        label = field.serialization_alias or name
        if name in expressions:
            labelled.append(expressions[name].label(label))
        elif name in mapper.columns:
            labelled.append(getattr(model, name).label(label))
        elif nested and name in mapper.relationships:
            related = columns_of(nested, mapper.relationships[name].mapper.class_)
            labelled += [column.element.label(f"{label}.{column.name}") for column in related]
        else:
            raise ValueError(f"{schema.__name__}.{name} is no column of {model.__name__}")
    return labelled


def _schema_in(annotation: Any) -> type[BaseModel] | None:
    """Return `Author` for the types `Author` and `Author | None`; None for others."""
    parts = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else [annotation]
    schemas = [part for part in parts if isinstance(part, type) and issubclass(part, BaseModel)]
    return schemas[0] if schemas else None
