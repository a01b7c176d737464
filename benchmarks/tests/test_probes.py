"""A stampede on a service that counts: what the database says, and who had no answer."""

from benchmarks.harness.probes import CLIENTS, Stampede, result, stampede_probes


def test_a_stampede_is_counted_and_its_answers_have_quantiles() -> None:
    fast, slow = [0.1] * (CLIENTS - 5), [0.3] * 5
    queries, errors, p50, p99 = stampede_probes([Stampede(1, [*slow, *fast], 0), Stampede(3, fast, 5)])

    assert (queries.values, queries.reached) == ((1, 3), False)
    assert (errors.values, errors.reached) == ((0, 5), False)
    assert [round(value) for value in p50.values] == [100, 100]
    assert [round(value) for value in p99.values] == [100, 100]
    assert stampede_probes([Stampede(1, [*slow, *slow, *fast], 0)])[-1].values == (300,)


def test_a_stampede_that_nobody_survived_has_no_quantiles() -> None:
    *_, p99 = stampede_probes([Stampede(0, [], CLIENTS)])

    assert (p99.values, p99.reached) == ((), None)


def test_what_a_probe_prints_last_is_its_result() -> None:
    assert result('{"level": "warning"}\n{"telemetry_us": [1.5]}') == {"telemetry_us": [1.5]}
