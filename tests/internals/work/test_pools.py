"""The calls of both pools, in a scrape of a service that runs."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families as parse

from tests.core.plugin import migrated_database
from tests.internals.running import Service, eventually

CALLS = 24


@pytest.mark.timeout(90)
def test_calls_that_run_wait_or_were_refused_are_in_a_scrape(tmp_path: Path) -> None:
    def scraped() -> dict[tuple[str, ...], float]:
        return {
            (sample.name, *sample.labels.values()): sample.value
            for family in parse(httpx2.get(service.admin("/metrics"), timeout=10).text)
            for sample in family.samples
            if sample.name.startswith("pool_")
        }

    with migrated_database() as url:
        # More calls than run and wait.
        service = Service(tmp_path, url, CPU_PROCESSES="1")
        with service.client, service.running, ThreadPoolExecutor(CALLS + 1) as clients:
            service.start_web("work.web")
            for path in ("/thread", *["/computation"] * CALLS):
                clients.submit(service.client.get, f"{path}?waits=true", timeout=60)
            eventually(lambda: ("pool_refusals_total", "process") in scraped(), service.logs)
            found = scraped()
            service.web.kill()

    assert found["pool_calls", "thread", "busy"] == 1
    assert found["pool_calls", "process", "busy"] >= 1
    assert found["pool_calls", "process", "waiting"] >= 1
    assert found["pool_refusals_total", "process"] >= 1
