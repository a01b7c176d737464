"""The document of a run: the data as JSON, and the page and plots that are made from it."""

import json
from pathlib import Path
from typing import Any, TypedDict

from benchmarks.growth.asking import CrowdPoint
from benchmarks.growth.cache import EntriesPoint, TagsPoint
from benchmarks.growth.instances import InstancesPoint
from benchmarks.growth.loads import WorkersPoint
from benchmarks.growth.model import Demands
from benchmarks.growth.rows import RowsPoint
from tests.rendering import ROOT

DIRECTORY = ROOT / "docs" / "performance"


class Document(TypedDict):
    started_at: str
    seconds: float
    machine: dict[str, Any]
    settings: dict[str, Any]
    rows: list[RowsPoint]
    tags: list[TagsPoint]
    entries: list[EntriesPoint]
    clients: list[CrowdPoint]
    workers: list[WorkersPoint]
    demands: dict[str, float]
    instances: list[InstancesPoint]


def demands_of(document: Document) -> Demands:
    return Demands(**document["demands"])


def load(directory: Path = DIRECTORY) -> Document:
    found: Document = json.loads((directory / "growth.json").read_text(encoding="utf-8"))
    return found


def publish(document: Document, directory: Path) -> list[Path]:
    """Write the data, the page and the plots; returns their paths."""
    from benchmarks.growth import drawing, page

    data, text = directory / "growth.json", directory / "growth.md"
    data.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    text.write_text(page.markdown(document), encoding="utf-8")
    return [data, text, *drawing.write(document, directory)]
