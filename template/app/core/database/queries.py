"""The statements that a block of a test sends."""

from app.core.operations.activity import Activity, current


class Queries(Activity):
    """The SQL of each statement that a `with` block sends, tasks that it starts included.

    A nested block adds its statements to the outer block as well.
    """

    def __init__(self) -> None:
        super().__init__()
        self.statements: list[str] = []

    def __enter__(self) -> "Queries":
        self._token = current.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        current.reset(self._token)

    def sent(self, sql: str) -> None:
        self.statements.append(sql)
