"""What the queueing model says of a document: at the measured points, and beyond the cores of the machine (pure)."""

from math import inf
from statistics import median
from typing import NamedTuple

from benchmarks.growth import instances, loads
from benchmarks.growth.document import Document, demands_of
from benchmarks.growth.model import one_machine, own_cores, throughputs

# On paper: so many clients for each worker, as the points that were measured have.
CLIENTS_OF_A_WORKER = 20
PAPER_WORKERS = (1, 2, 4, 8, 16, 32)
DATABASE_CORES = (2, 4, 8)
QUIET_CORES = 0.1


class Check(NamedTuple):
    """A measured rate and the model's; `calibrated` if the model was given this point."""

    workers: int
    clients: int
    measured: float
    predicted: float
    calibrated: bool
    foreign_cores: float

    @property
    def error(self) -> float:
        """The model's rate as a part of the measured one, less one."""
        return self.predicted / self.measured - 1


class Forecast(NamedTuple):
    number: int
    requests_per_s: float


def checks(document: Document) -> list[Check]:
    """Compare the model with every point of the workers."""
    demands, cores = demands_of(document), document["machine"]["cores"]
    found = []
    for each in document["workers"]:
        most = max(point["clients"] for point in each["points"])
        rates = throughputs(one_machine(demands, each["workers"], cores), most)
        found += [
            Check(
                each["workers"],
                point["clients"],
                point["requests_per_s"],
                rates[point["clients"] - 1],
                each["workers"] == 1 and point["clients"] in (1, loads.CALIBRATION_CLIENTS),
                point["foreign_cores"],
            )
            for point in each["points"]
        ]
    return found


def error_text(found: list[Check]) -> str:
    """Return the median and the largest error of the points that the model was not given, in per cent."""
    errors = [abs(each.error) for each in found if not each.calibrated]
    return f"{median(errors):.0%} (median; at most {max(errors):.0%})" if errors else "unknown, without such a point"


def is_quiet(each: Check) -> bool:
    """Whether other processes took no more than the benchmark allows in its own rounds."""
    return each.foreign_cores <= QUIET_CORES


def on_own_cores(document: Document, database_cores: int) -> list[Forecast]:
    """Forecast workers that have a core each, with the database and the clients on other machines."""
    return [Forecast(workers, _rate(document, workers, database_cores)) for workers in PAPER_WORKERS]


def of_instances(document: Document, max_connections: int, database_cores: int) -> list[Forecast]:
    """Forecast the instances that the capacity plan allows."""
    return [
        Forecast(each["instances"], _rate(document, each["instances"] * instances.WORKERS, database_cores))
        for each in document["instances"]
        if each["max_connections"] == max_connections and each["connections"] is not None
    ]


def workers_of(document: Document, database_cores: int) -> float:
    """Return the number of workers that keep so many cores of the database busy."""
    demands = demands_of(document)
    return database_cores * demands.service_s / demands.database_s if demands.database_s else inf


def _rate(document: Document, workers: int, database_cores: int) -> float:
    stations = own_cores(demands_of(document), workers, database_cores)
    return throughputs(stations, workers * CLIENTS_OF_A_WORKER)[-1]
