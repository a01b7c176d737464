"""The page of growth: made from its data, and a whole run with small sizes on real servers."""

import json
import os
import subprocess
import sys
import xml.etree.ElementTree
from copy import deepcopy
from pathlib import Path

import pytest

from benchmarks.growth import document, drawing, page, predictions
from benchmarks.growth.document import Document
from tests.rendering import ROOT

# Of a run, on a machine that does much else.
TIMEOUT_S = 900


@pytest.fixture(scope="module")
def published() -> Document:
    return document.load()


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory with the results of a run of the smallest sizes."""
    directory = tmp_path_factory.mktemp("growth")
    process = subprocess.run(
        [sys.executable, "-m", "benchmarks.growth", "--quick", "--output", str(directory)],
        cwd=ROOT,
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    return directory


def test_the_published_page_is_that_of_its_data(published: Document) -> None:
    assert (document.DIRECTORY / "growth.md").read_text(encoding="utf-8") == page.markdown(published)


def test_the_page_shows_each_figure_of_its_data(published: Document) -> None:
    changed = deepcopy(published)
    changed["rows"][-1]["statements"]["offset"]["ms"] *= 2
    changed["clients"][-1]["refused_per_s"] += 1000
    changed["demands"]["service_s"] *= 2
    lines = set(page.markdown(published).splitlines())
    differing = [line for line in page.markdown(changed).splitlines() if line not in lines]
    assert len(differing) > 5


def test_every_plot_of_the_page_is_published(published: Document) -> None:
    text = page.markdown(published)
    for name in drawing.plots(published):
        assert f"(growth-{name}.svg)" in text
        xml.etree.ElementTree.parse(document.DIRECTORY / f"growth-{name}.svg")  # noqa: S314 - our own


def test_the_model_is_compared_with_every_point_and_given_two(published: Document) -> None:
    found = predictions.checks(published)
    assert len(found) == sum(len(each["points"]) for each in published["workers"])
    assert sum(each.calibrated for each in found) == 2


def test_a_run_measures_every_axis(quick: Path) -> None:
    found = document.load(quick)
    for name in ("rows", "tags", "entries", "clients", "workers", "instances"):
        assert found[name], name
    assert (quick / "growth.md").read_text(encoding="utf-8") == page.markdown(found)
    assert {path.stem for path in quick.glob("*.svg")} == {f"growth-{name}" for name in drawing.plots(found)}
    assert json.loads((quick / "growth.json").read_text()) == found


def test_a_cursor_reads_no_more_of_more_rows_and_offset_does(quick: Path) -> None:
    first, *_, last = (each["statements"] for each in document.load(quick)["rows"])
    assert last["cursor"]["buffers"] < 2 * first["cursor"]["buffers"]
    assert last["offset"]["buffers"] > 2 * first["offset"]["buffers"]


def test_hits_need_no_server(quick: Path) -> None:
    for each in document.load(quick)["tags"]:
        # Valkey works for a miss alone; its clock has steps of 10 ms.
        assert each["servers_us"]["hit"] < each["service_us"]["hit"]


def test_every_request_of_the_loads_was_answered(quick: Path) -> None:
    found = document.load(quick)
    assert [each["errors"] for each in (*found["clients"], *found["workers"][0]["points"])] == [0] * 5
