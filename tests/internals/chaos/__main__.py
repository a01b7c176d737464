"""Run faults under load: `python -m tests.internals.chaos OUTPUT [--short] [FAULT ...]`.

Each FAULT is a part of a name: `killed`, `valkey`, `PostgreSQL hung`. Writes one JSON document, and
ends with exit code 1 if a verdict is not as promised.
"""

import argparse
import asyncio
import json
import logging
import sys
import time
from dataclasses import replace
from itertools import count, groupby
from pathlib import Path

from dev.processes import log_of
from tests.internals.chaos.bounds import (
    CACHED_S,
    HAS_BROKER,
    HAS_CACHE_SERVER,
    HAS_REPLICA,
    HAS_WORKER,
    READ_S,
)
from tests.internals.chaos.faults import FAULTS, Fault
from tests.internals.chaos.judge import LATE_S, Event, Verdict, Window, judge
from tests.internals.chaos.world import World, versions, world

WARM_S = 2.0
# The load goes on at least this long after a fault, and until no error has come for `LATE_S`.
AFTER_S = 4.0
# Generous: these only tell a service that recovers from one that does not.
RECOVERED_S = 30.0
JOBS_S = 60.0
# For CI: the most telling faults, all in the world of the last one, which ends the primary.
SHORT = (
    "PostgreSQL killed",
    "PostgreSQL hung",
    "Valkey killed",
    "Valkey old snapshot",
    "PostgreSQL failover",
)
# On a busy machine, a server that is well takes longer than the default of 0.1 s.
PATIENT = {"CACHE_TIMEOUT_S": "1"}
_names = count()


async def strike(made: World, fault: Fault) -> tuple[Verdict, dict[str, str], list[Event]]:
    """Run the load, the fault within it, and compare; the second are checks that failed in it."""
    before = await made.stored()
    name = f"client-{next(_names)}"
    client = made.start(name, "tests.internals.chaos.client", made.url)
    try:
        while not _events(made, name):
            assert client.poll() is None, made.log(name)
            await asyncio.sleep(0.1)
        await asyncio.sleep(WARM_S)
        began = time.monotonic()
        async with fault.apply(made):
            await asyncio.sleep(fault.held_s / 2)
            checks = await made.checks() if fault.held_s else {}
            await asyncio.sleep(max(0.0, began + fault.held_s - time.monotonic()))
            ended = time.monotonic() if not fault.held_s else 0.0
        ended = ended or time.monotonic()
        give_up_at = ended + RECOVERED_S
        while time.monotonic() < give_up_at:
            await asyncio.sleep(0.5)
            errors = [event.ended for event in _events(made, name) if event.is_error]
            if time.monotonic() > max([ended + AFTER_S, *(last + LATE_S for last in errors)]):
                break
        client.terminate()
        await asyncio.to_thread(client.wait, 60)
    finally:
        if client.poll() is None:
            client.kill()
    events = _events(made, name)
    accepted = {event.key for event in events if event.kind == "entry" and not event.is_error}
    after = await made.stored()
    give_up_at = time.monotonic() + JOBS_S
    while accepted - after.effects.keys() and time.monotonic() < give_up_at:
        await asyncio.sleep(0.5)
        after = await made.stored()
    window = Window(began, ended)
    verdict = judge(events, before, after, window, read_s=READ_S, cached_s=CACHED_S)
    return verdict, checks, events


def _events(made: World, name: str) -> list[Event]:
    """Return what the client has recorded so far; its other lines are errors."""
    lines = log_of(made.home / name).read_text(errors="replace").splitlines(keepends=True)
    whole = [line for line in lines if line.endswith("\n")]
    assert all(line.startswith("[") for line in whole), "".join(whole[-20:])
    return [Event(*json.loads(line)) for line in whole]


def breaches(fault: Fault, verdict: Verdict, *, is_short: bool = False) -> list[str]:
    """Return the promises that do not hold.

    `is_short` is for CI, whose machines may be slow: a worker may be busy, so that 503 is allowed
    everywhere, and an invalidation late, but at the end every answer shows the last value.
    """
    found = {
        "wrong answers": verdict.wrong,
        "lost writes": verdict.lost_writes,
        "lost jobs": 0 if fault.loses_jobs else verdict.lost_jobs,
        "stale answers": verdict.stale_at_end if is_short else verdict.stale,
    }
    said = [f"{number} {what}" for what, number in found.items() if number]
    is_busy = {"503"} if is_short else set()
    outcomes = verdict.errors.keys() | verdict.late_errors.keys()
    said += [f"an answer {outcome}" for outcome in sorted(outcomes - fault.allowed - is_busy)]
    if verdict.recovered_s > RECOVERED_S - LATE_S:
        said.append(f"no recovery within {RECOVERED_S:g} s")
    return said


async def run(
    faults: list[Fault], keep: Path | None, *, is_short: bool
) -> tuple[dict[str, object], bool]:
    """Run the faults; return the document, and whether all is as promised."""
    rows: dict[str, dict[str, object]] = {}
    found: dict[str, str] = {}
    for needs, group in groupby(sorted(faults, key=lambda fault: fault.world), lambda f: f.world):
        kind = {"tls": needs == "tls", "failover": needs == "failover"}
        async with world(**kind, variables=PATIENT if is_short else {}) as made:
            found |= versions(made)
            (postgres,) = await made.sql("SHOW server_version")
            found["PostgreSQL"] = postgres[0].split()[0]
            for fault in group:
                verdict, checks, events = await strike(made, fault)
                said = breaches(fault, verdict, is_short=is_short)
                rows[fault.name] = vars(verdict) | {"checks": checks, "breaches": said}
                print(
                    f"{fault.name}: {'; '.join(said) or 'as promised'} {verdict} {checks}",
                    flush=True,
                )
                if said and keep:
                    keep.mkdir(exist_ok=True)
                    stem = fault.name.replace(" ", "-")
                    (keep / f"{stem}.json").write_text(json.dumps(events))
                    for name in made.processes:
                        (keep / f"{stem}-{name}.log").write_text(made.log(name))
    # In the order of the list.
    rows = {name: rows[name] for name in FAULTS if name in rows}
    document = {
        "versions": found,
        "bounds": {"cached": CACHED_S, "replica": READ_S if HAS_REPLICA else None},
        "faults": rows,
    }
    return document, not any(row["breaches"] for row in rows.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("faults", nargs="*")
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--keep", type=Path, help="directory for records of broken promises")
    arguments = parser.parse_intermixed_args()
    # asyncio warns of each TLS connection that ends.
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    has = {"valkey": HAS_CACHE_SERVER, "broker": HAS_BROKER, "jobs": HAS_WORKER}
    has |= {"postgres": True, "web": True}
    running = {server for server, is_there in has.items() if is_there}
    chosen = [
        fault
        for fault in FAULTS.values()
        if fault.servers <= running
        and (
            not arguments.faults
            or any(part.lower() in fault.name.lower() for part in arguments.faults)
        )
    ]
    if not chosen:
        parser.error(f"no such fault; there are: {', '.join(FAULTS)}")
    if arguments.short:
        chosen = [replace(FAULTS[name], world="failover") for name in SHORT]
    document, as_promised = asyncio.run(run(chosen, arguments.keep, is_short=arguments.short))
    arguments.output.write_text(json.dumps(document, indent=1))
    return not as_promised


if __name__ == "__main__":
    sys.exit(main())
