"""Tells a person at a terminal how far the run is, and a log what it does."""

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from benchmarks.harness.results import Round


class Progress:
    """A bar on stderr where that is a terminal, else a line for each thing that is measured."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._bar = Bar(
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task: TaskID = self._bar.add_task("", total=None)

    def __enter__(self) -> "Progress":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def expect(self, rounds: int) -> None:
        self._bar.update(self._task, total=rounds)

    def say(self, what: str) -> None:
        self._bar.update(self._task, description=what)
        if not self._console.is_terminal:
            self._console.print(what, highlight=False, soft_wrap=True)

    def count(self, measured: Round) -> None:
        self._bar.advance(self._task)
        if not self._console.is_terminal:
            note = " (disturbed)" if measured.disturbed else ""
            self._console.print(f"  {measured.requests_per_s:,.0f} requests/s{note}", highlight=False)
