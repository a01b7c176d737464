"""The plots as files: what is written in them, in which colours, and for which results there are any."""

import re
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from benchmarks.harness import plots
from benchmarks.harness.results import Measurement
from benchmarks.harness.scenarios import ENDPOINTS, MIXES
from benchmarks.tests import fakes
from benchmarks.tests.fakes import measurement, results, round_

SVG = "{http://www.w3.org/2000/svg}"
LIGHT_PAGE, DARK_PAGE = "#ffffff", "#0d1117"
# What matplotlib draws for 11 scenarios of five services is far below this while text stays text.
MAX_BYTES = 120_000


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    paths = plots.write(fakes.whole_run(), tmp_path_factory.mktemp("plots"))
    return {path.stem: path.read_text(encoding="utf-8") for path in paths}


def parsed(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)  # noqa: S314 - our own


def texts(svg: str) -> list[str]:
    return ["".join(each.itertext()).strip() for each in parsed(svg).iter(f"{SVG}text")]


def test_there_are_four_plots(drawn: dict[str, str]) -> None:
    assert list(drawn) == ["throughput", "cpu", "latency", "clients"]


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("throughput", ["read-mostly-cached", "posts-deep", "write", "1x", "10x", "100x"]),
        ("cpu", ["health", "user", "posts-deep", "write", "100 µs", "1,000 µs"]),
        ("latency", [*fakes.SERVICES, "read-mostly, 40 clients", "read-mostly at 600/s", "50 %", "99 %", "99.9 %"]),
        ("clients", [*fakes.SERVICES, "user: requests/s", "user: p99, ms", "1", "4", "16", "40", "160"]),
    ],
)
def test_labels_are_text(drawn: dict[str, str], name: str, labels: list[str]) -> None:
    assert set(labels) <= set(texts(drawn[name]))


def test_every_bar_is_labelled_with_its_figure(drawn: dict[str, str]) -> None:
    words = texts(drawn["throughput"])
    for service in ("usual", "plain", "rendered", "raw"):
        found = [word for word in words if re.fullmatch(rf"[\d.,]+x\s+{service}", word)]
        assert len(found) == len(fakes.SPEEDS)
    # The one that the others are compared with is a line, and its figure stands below the scenario's name.
    assert len([word for word in words if re.fullmatch(r"naive: [\d.,]+/s", word)]) == len(fakes.SPEEDS)


def test_figures_of_bars() -> None:
    run = results([measurement("naive", round_(1_000)), measurement("rendered", round_(2_500))])
    figure = plots.throughput(run)
    assert figure is not None
    [axis] = figure.axes
    assert axis.get_xscale() == "linear"
    assert {"2.5x  rendered", "naive: 100/s", "user"} <= {text.get_text() for text in axis.texts}


@pytest.mark.parametrize(("fast", "scale"), [(19_000, "linear"), (21_000, "log")])
def test_wide_ranges_have_a_log_axis(fast: int, scale: str) -> None:
    run = results([measurement("naive", round_(1_000)), measurement("rendered", round_(fast))])
    figure = plots.throughput(run)
    assert figure is not None
    assert figure.axes[0].get_xscale() == scale


def test_mixes_come_first(drawn: dict[str, str]) -> None:
    words = texts(drawn["throughput"])
    scenarios = [word for word in words if word in fakes.SPEEDS]
    assert scenarios == [*MIXES, *ENDPOINTS]


def test_without_naive_the_first_service_is_what_others_are_compared_with() -> None:
    run = results([measurement("raw", round_(3_000)), measurement("plain", round_(1_500))])
    figure = plots.throughput(run)
    assert figure is not None
    assert "2.0x  raw" in {text.get_text() for text in figure.axes[0].texts}
    assert figure.get_suptitle() == "Requests/s as a multiple of those of plain (longer is better)"


def test_services_that_cannot_keep_up_are_named(drawn: dict[str, str]) -> None:
    assert [word for word in texts(drawn["latency"]) if word.startswith("cannot keep up")] == [
        "cannot keep up: naive",
        "cannot keep up: naive, usual",
    ]


def colours(svg: str) -> dict[str, dict[str, str]]:
    """Scheme -> class -> colour, as the style sheet has them."""
    [sheet] = re.findall(r"<style>(.*?)</style>", svg, re.DOTALL)
    light, dark = sheet.split("@media (prefers-color-scheme: dark)")
    rule = re.compile(r"\.([\w-]+) \{ (?:fill|stroke): (#[0-9a-f]{6}) \}")
    return {"light": dict(rule.findall(light)), "dark": dict(rule.findall(dark))}


@pytest.mark.parametrize("name", plots.PLOTS)
def test_each_colour_has_both_schemes(drawn: dict[str, str], name: str) -> None:
    by_scheme = colours(drawn[name])
    used = {each for classes in re.findall(r'class="([^"]*)"', drawn[name]) for each in classes.split()}
    assert {"fill-ink", "stroke-grid", "fill-rendered"} <= used
    for scheme in by_scheme.values():
        assert used <= set(scheme)
    assert all(by_scheme["light"][each] != by_scheme["dark"][each] for each in used)


@pytest.mark.parametrize("name", plots.PLOTS)
def test_no_colour_is_fixed(drawn: dict[str, str], name: str) -> None:
    root = parsed(drawn[name])
    for element in root.iter():
        style = element.get("style", "")
        assert not re.search(r"#[0-9a-fA-F]{3,6}|black|white|rgb", style), style
        assert element.get("fill") in (None, "none")
        assert element.get("stroke") in (None, "none")
    # Text without a class would be black.
    for element in root.iter(f"{SVG}text"):
        assert element.get("class") in ("fill-ink", "fill-faint"), ElementTree.tostring(element)


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2.2)."""
    channels = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    red, green, blue = (each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("name", [name for name in plots.SCHEMES if name != "grid"])
def test_colours_stand_out_from_both_pages(name: str) -> None:
    # WCAG 2.2: 4.5 for text, 3 for graphics.
    enough = 4.5 if name in ("ink", "faint") else 3
    light, dark = plots.SCHEMES[name]
    assert contrast(light, LIGHT_PAGE) >= enough
    assert contrast(dark, DARK_PAGE) >= enough


def test_services_differ_without_colours() -> None:
    looks = [*plots.LOOKS.values(), plots.OTHER]
    assert len({look.marker for look in looks}) == len({look.dashes for look in looks}) == len(looks)
    assert [name for name, look in plots.LOOKS.items() if look.strong] == ["rendered"]
    assert set(plots.LOOKS) == set(fakes.SERVICES)
    assert len({light for light, _ in plots.SCHEMES.values()}) == len(plots.SCHEMES)


@pytest.mark.parametrize("name", plots.PLOTS)
def test_files_are_small_and_fit_a_page(drawn: dict[str, str], name: str) -> None:
    assert len(drawn[name].encode()) < MAX_BYTES
    assert "<image" not in drawn[name]
    width = parsed(drawn[name]).get("width", "")
    assert width.endswith("pt")
    assert float(width.removesuffix("pt")) * 96 / 72 <= 800


def shown(figure: Figure) -> list[Text]:
    """All texts of a figure that are drawn."""
    found = [*figure.texts, *(text for legend in figure.legends for text in legend.get_texts())]
    for axis in figure.axes:
        found += [axis.title, *axis.texts, axis.xaxis.label, axis.yaxis.label]
        for side in (axis.xaxis, axis.yaxis):
            low, high = sorted(side.get_view_interval())
            ticks = zip(side.get_majorticklocs(), side.get_ticklabels(), strict=True)
            found += [label for place, label in ticks if side.get_visible() and low <= place <= high]
    return [text for text in found if text.get_text()]


@pytest.mark.parametrize("name", plots.PLOTS)
def test_texts_are_inside_the_picture_and_apart(name: str) -> None:
    with matplotlib.rc_context(plots.SETTINGS):
        figure = plots.PLOTS[name](fakes.whole_run())
        assert figure is not None
        figure.draw_without_rendering()
        boxes = [(text.get_text(), text.get_window_extent()) for text in shown(figure)]
    assert len(boxes) > 20
    for index, (label, box) in enumerate(boxes):
        assert 0 <= box.x0 < box.x1 <= figure.bbox.width, label
        assert 0 <= box.y0 < box.y1 <= figure.bbox.height, label
        for other_label, other in boxes[:index]:
            # Boxes have room above and below the letters.
            assert not box.shrunk(1.0, 0.9).overlaps(other.shrunk(1.0, 0.9)), (label, other_label)


def test_equal_results_are_equal_files(drawn: dict[str, str], tmp_path: Path) -> None:
    again = {path.stem: path.read_text(encoding="utf-8") for path in plots.write(fakes.whole_run(), tmp_path)}
    assert again == drawn
    assert not re.search(r"<dc:date>|20\d\d-\d\d", drawn["cpu"])


@pytest.mark.parametrize(
    ("measurements", "written"),
    [
        ([], []),
        ([measurement("naive"), measurement("rendered")], []),
        ([measurement("naive", round_(0)), measurement("rendered", round_(0))], []),
        ([measurement("rendered", round_())], ["cpu"]),
        ([measurement("naive", round_(0)), measurement("rendered", round_())], ["cpu"]),
        ([measurement("naive", round_()), measurement("rendered", round_(0))], ["cpu"]),
        (
            [measurement("naive", *[round_(9)] * 3), measurement("raw", round_(0), round_(990), round_(999))],
            ["throughput", "cpu"],
        ),
        ([measurement("other", round_(9)), measurement("another", round_(9))], ["throughput", "cpu"]),
        ([measurement("rendered", round_(), section="mixes", scenario="read-mostly")], ["latency"]),
        ([measurement("rendered", round_(), section="open_loop", rate_per_s=9.0)], ["latency"]),
        ([measurement("rendered", round_(0), section="open_loop", rate_per_s=9.0)], []),
        ([measurement("rendered", round_(), section="clients")], ["clients"]),
        ([measurement("rendered", round_(0), section="clients")], []),
    ],
)
@pytest.mark.filterwarnings("error")
def test_only_that_is_drawn_for_which_there_is_data(
    measurements: list[Measurement], written: list[str], tmp_path: Path
) -> None:
    paths = plots.write(results(measurements, complete=False), tmp_path)
    assert [path.stem for path in paths] == written
    assert sorted(tmp_path.iterdir()) == sorted(paths)
    for path in paths:
        assert not {"nan", "inf"} & set(re.findall(r"\b(?:nan|inf)\b", path.read_text(encoding="utf-8")))
