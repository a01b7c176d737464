"""The rendered service beside one with everything that slow services have."""

from benchmarks.claims.bench import P95, RATE, Bench, Side
from benchmarks.harness.machine import usable_cores
from benchmarks.harness.scenarios import MIXES, Data, stream
from benchmarks.harness.services import SERVICES
from tests.rendering import ROOT

MIX = MIXES["read-mostly-cached"]
CLIENTS = 40


def overall(bench: Bench) -> None:
    lab = bench.lab
    directories = {"naive": ROOT, "rendered": lab.renderings.directory("valkey")}
    with (
        lab.serve_known("naive", workers=1, cached=True) as naive,
        lab.serve_known("rendered", workers=len(usable_cores()), cached=True) as rendered,
    ):
        sides = []
        for name, server in (("naive", naive), ("rendered", rendered)):
            data = Data(lab.rows.users, SERVICES[name].deep_page(lab.rows, directories[name]))
            # The rendered service may refuse a request that would wait too long; the page shows the number.
            sides.append(Side(server, stream(MIX, data), clients=CLIENTS, times=4, may_fail=True))
        bench.compare(sides[0], sides[1], {"rate": RATE, "p95": P95}, few=True)
