"""Every metric and label that deploy/ names for Prometheus and Grafana is in a live scrape."""

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from httpx2 import ASGITransport, AsyncClient
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import literal, select

from app.core.application import create_app
from app.core.cache import public
from app.core.database import PreparedRead, ReadSessionDep
from app.core.telemetry.metrics import exposition, sampling
from app.settings import get_settings

DEPLOY = Path(__file__).parents[2] / "deploy"
TEXTS = {
    path.relative_to(DEPLOY): path.read_text()
    for pattern in ("rules.y*ml", "*.json")
    for path in DEPLOY.rglob(pattern)
}
# Of a metric, not of a recorded series; the tests of the template prove that each names the job.
SELECTOR = re.compile(r"(?<![\w:])([a-z]\w*)\{(job=[^}]*)\}")
MATCHER = re.compile(r"""(\w+)(=~|!~|=)["']([^"']*)["']""")
GROUPING = re.compile(r"\bby \(([^)]*)\) \((?:\w+\()?([a-z]\w*)\{")
# Prometheus adds these.
OWN_SERIES = {"up"}
OWN_LABELS = {"job", "instance"}

ONE = PreparedRead(select(literal(1).label("one")))
# Without a cache, no policy has a freshness of its own.
POLICY: Any = {"ttl_s" if find_spec("app.core.cache.store") else "s_maxage_s": 60}
router = APIRouter()


@router.get("/expressions/read")
@public(**POLICY)
async def read(session: ReadSessionDep) -> None:
    await session.fetch(ONE)


@router.get("/expressions/failed")
async def fail() -> None:
    raise RuntimeError("answered with 500")


@pytest.fixture
def observed_app() -> FastAPI:
    return create_app(get_settings(), router, title="expressions", description="for tests")


@pytest.fixture
async def series(app: FastAPI, observed_app: FastAPI) -> dict[str, list[dict[str, str]]]:
    """The labels of all series, by name, after some traffic."""
    transport = ASGITransport(observed_app, raise_app_exceptions=False)
    client = AsyncClient(transport=transport, base_url="http://test")
    async with client, sampling(get_settings()):
        await client.get("/expressions/read")
        await client.get("/expressions/failed")
        assert observed_app.state.limiter.refuses("/expressions/read", in_flight=10**6)
    found: dict[str, list[dict[str, str]]] = {}
    text = (await exposition()).body
    for family in text_string_to_metric_families(bytes(text).decode()):
        for sample in family.samples:
            found.setdefault(sample.name, []).append(dict(sample.labels))
    return found


def matches(value: str, sign: str, expected: str) -> bool:
    """Return whether the value of a label fits, as Prometheus compares it."""
    if sign == "=":
        return value == expected
    return bool(re.fullmatch(expected, value)) == (sign == "=~")


async def test_every_expression_finds_series(series: dict[str, list[dict[str, str]]]) -> None:
    found = 0
    for path, text in TEXTS.items():
        for name, matchers in SELECTOR.findall(text):
            if name in OWN_SERIES:
                continue
            wanted = [each for each in MATCHER.findall(matchers) if each[0] not in OWN_LABELS]
            assert any(
                all(matches(labels[label], sign, value) for label, sign, value in wanted)
                for labels in series[name]
            ), f"{path}: {name}{{{matchers}}}"
            found += 1
        for grouping, name in GROUPING.findall(text):
            labels = set(grouping.split(", ")) - OWN_LABELS
            assert all(labels <= set(each) for each in series[name]), f"{path}: by ({grouping})"
    assert found > 40
