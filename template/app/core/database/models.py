"""The base class of all models, and the tables of core, with a naming convention for constraints.

Migrations and `violated_constraint` rely on these names. The models of the team and the tables of
core have separate migrations.
"""

from sqlalchemy import MetaData
from sqlalchemy.orm import DeclarativeBase


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_N_label)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


core_metadata = MetaData(naming_convention=Base.metadata.naming_convention)
