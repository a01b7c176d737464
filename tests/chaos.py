"""The chaos suite of `nox -s chaos`: the programs in a rendered service, and the page of their verdicts.

The programs are in tests/internals/chaos/. Each run writes a document of JSON; the page has a part for each variant,
and a run replaces the parts of its variants.
"""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.internals_table import HELPERS, SOURCE
from tests.rendering import ROOT
from tests.variants import DEFAULTS
from tests.variants import VARIANTS as EVERY

PAGE = ROOT / "docs/chaos.md"
# Together they have every kind of cache and of engine for jobs.
VARIANTS = ("defaults", "memory-background", "everything")
Document = dict[str, Any]

HEAD = """\
# Faults under load

`nox -s chaos` writes this page. It renders a service, runs it as production does (gunicorn with two workers, a worker
for jobs), and breaks each of its servers under load: a proxy in front of PostgreSQL, Valkey and the broker makes the
network slow, silent or reset, and the servers themselves are killed, stopped, filled, emptied, restored or failed over.
`nox -s chaos -- memory-background killed` runs the faults of one variant with this word in their names. CI runs the
most telling ones (`chaos-short`), `nox -s thorough` all.

Twelve clients read, read through the cache, write and enqueue jobs, together up to 120 times a second. They record each
answer, and the run compares afterwards:

| column | meaning |
| --- | --- |
| errors | responses that are no success, by status, until 2 s after the end of the fault |
| later | the same, more than 2 s after its end |
| wrong | a value that no client has written, or the body of another item |
| lost | acknowledged writes that the database does not have, and accepted jobs that have not run |
| stale | answers that did not show a known write for longer than the bound, which is named below each table |
| oldest | the longest time in s for which an answer did not show a known write: acknowledged, or shown to a client |
| recovered | seconds from the end of the fault, when the server accepts again, to the last error |
| jobs | seconds from the end of the fault until all jobs that were accepted before have run |
| p50, p99 | response times during the fault in ms, errors included |
| checks | the dependencies of which `/readyz` on the admin port complains in the middle of the fault |

The run fails if an answer is wrong or stale, if a write or a job is lost, if clients see another error than 503, or if
they see any error while only the cache or the broker is broken. Times depend on the machine: the run fails only if a
service does not recover at all.
"""


def lay_over(service: Path) -> None:
    """Copy the programs into a rendered service, and include their routes in its `app/api.py`."""
    for name in HELPERS:
        if name.startswith(("chaos/", "replica/")) or "/" not in name:
            target = service / "tests" / "internals" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(SOURCE / name, target)
    with (service / "app/api.py").open("a", encoding="utf-8") as file:
        file.write("from tests.internals.chaos.items import router as chaos\n\nrouter.include_router(chaos)\n")


def load(path: Path) -> Document:
    document: Document = json.loads(path.read_text(encoding="utf-8"))
    return document


def breaches(documents: Mapping[str, Document]) -> list[str]:
    """Return each broken promise, with its variant and fault."""
    return [
        f"{name}: {fault}: {'; '.join(row['breaches'])}"
        for name, document in documents.items()
        for fault, row in document["faults"].items()
        if row["breaches"]
    ]


def write(documents: Mapping[str, Document]) -> None:
    """Write the page, with the parts of other variants as they are."""
    text = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    parts = {part.split("\n", 1)[0]: part for part in re.split(r"^## ", text, flags=re.MULTILINE)[1:]}
    parts |= {name: part(name, document) for name, document in documents.items()}
    named = sorted(parts, key=lambda name: list(EVERY).index(name))
    body = "\n".join(f"## {parts[name].strip()}\n" for name in named)
    PAGE.write_text(f"{HEAD}\n{body}", encoding="utf-8", newline="\n")


def part(name: str, document: Document) -> str:
    """Return the part of a variant, without the mark of its heading."""
    differ = {key: value for key, value in EVERY[name].items() if key in DEFAULTS and value != DEFAULTS[key]}
    told = ("cache_backend", "background_jobs", "read_replica", "outbox", "auth", "rate_limits", "idempotency")
    answers = ", ".join(f"`{key}={json.dumps(differ[key])}`".replace('"', "") for key in told if key in differ)
    versions = ", ".join(f"{what} {version}" for what, version in document["versions"].items() if what != "cores")
    cached, replica = document["bounds"]["cached"], document["bounds"]["replica"]
    bounds = [
        f"a cached answer {cached:g} s" if cached else "",
        f"an answer of the replica {replica:g} s" if replica else "",
    ]
    named = " and ".join(filter(None, bounds)) or "none"
    columns = (
        "fault",
        "requests",
        "errors",
        "later",
        "wrong",
        "lost",
        "stale",
        "oldest",
        "recovered",
        "jobs",
        "p50",
        "p99",
        "checks",
    )
    rows = [columns, ("---",) * len(columns), *(_row(fault, row) for fault, row in document["faults"].items())]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    facts = f"{answers or 'All answers are the defaults'}. {versions}, {document['versions']['cores']} cores."
    bounded = f"Bounds of staleness: {named}; other answers show the last value."
    return "\n\n".join((name, facts, table, bounded))


def _row(fault: str, row: Mapping[str, Any]) -> tuple[str, ...]:
    lost = [f"{row[f'lost_{what}']} {what}" for what in ("writes", "jobs") if row[f"lost_{what}"]]
    return (
        fault,
        str(row["requests"]),
        _counts(row["errors"]),
        _counts(row["late_errors"]),
        str(row["wrong"]),
        ", ".join(lost) or "0",
        str(row["stale"]),
        f"{row['oldest_s']:.2f}",
        f"{max(0.0, row['recovered_s']):.1f}",
        f"{row['jobs_s']:.1f}",
        f"{row['p50_ms']:.0f}",
        f"{row['p99_ms']:.0f}",
        ", ".join(row["checks"]),
    )


def _counts(outcomes: Mapping[str, int]) -> str:
    return ", ".join(f"{count} x {outcome}" for outcome, count in sorted(outcomes.items())) or "0"
