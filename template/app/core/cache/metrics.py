"""How often the cache had an answer, as a metric that is read when it is collected."""

from collections.abc import Iterator

from opentelemetry.metrics import CallbackOptions, Meter, Observation, get_meter

from app.core.cache.reads import Cache


def observe(cache: Cache, meter: Meter | None = None) -> None:
    """Report the counts of `cache` as `cache.reads`, by level and outcome."""

    def observations(_: CallbackOptions) -> Iterator[Observation]:
        for (level, outcome), count in cache.counts.copy().items():
            yield Observation(count, {"cache.level": level, "cache.outcome": outcome})

    (meter or get_meter("app")).create_observable_counter(
        "cache.reads",
        callbacks=[observations],
        unit="{read}",
        description="Reads through the cache, by where they ended and how.",
    )
