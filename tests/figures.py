"""The figures of README.md: a part of the published results, word for word."""

from benchmarks.harness.report import SHORT as SHORT
from tests.rendering import ROOT

RESULTS = ROOT / "docs/performance/results.md"
README = ROOT / "README.md"


def part(text: str) -> str:
    """Return the part of a page between the marks, with them.

    Raises:
        ValueError: when the page does not have each of them once, in order.
    """
    before, first, rest = text.partition(SHORT[0])
    inside, last, after = rest.partition(SHORT[1])
    if not (first and last) or SHORT[0] in inside + after or SHORT[1] in before + after:
        raise ValueError(f"one part between {SHORT[0]!r} and {SHORT[1]!r} is needed")
    return first + inside + last


def main() -> None:
    """Write the part of the results into README.md."""
    text = README.read_text(encoding="utf-8")
    new = text.replace(part(text), part(RESULTS.read_text(encoding="utf-8")))
    README.write_text(new, encoding="utf-8", newline="\n")
