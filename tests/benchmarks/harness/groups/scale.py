"""Cost as work grows: the gateway's CPU per request against features, models, replicas and arms.

The upstream is a stub that answers for every replica, so that only the gateway is looked at. Models and replicas are
added in three ways: as routes alone; as routes whose streams stand open but carry nothing; and with the traffic
spread over all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from phantom_contracts import topics

from .. import model
from ..measure import Figures, Shape
from ..report import Row, judged, ratios
from ..report import figures as figure_rows
from ..rounds import Cell, Run, measure_cells, say, started
from ..stack import UNITS, Gateway, Published, Revision, Site, experiments_record, route_record
from ..stub import SCORE, Stub
from ..system import CannotMeasure

GROUP = "scale"
FEATURES, MODELS, REPLICAS, ARMS = (10, 100, 1_000), (1, 50, 500), (1, 4, 16), (2, 10)


@dataclass(frozen=True)
class Endpoint:
    """What to publish for one endpoint: revisions with replica counts; arms where there are several revisions."""

    name: str
    replicas: tuple[int, ...] = (1,)
    features: int = model.FEATURES
    arms: int = 0


@dataclass(frozen=True)
class Case:
    """One line of the table: what stands behind the gateway, and who is called."""

    name: str
    endpoints: tuple[Endpoint, ...]
    called: tuple[str, ...]

    @property
    def features(self) -> int:
        """Of what is called."""
        return self.endpoints[0].features


class Stubbed(Gateway):
    """A gateway in front of the stub: the answer is the stub's, and only the gateway's CPU counts."""

    def __init__(self, site: Site, case: Case) -> None:
        super().__init__(site, case.called[0], (), name="gateway", features=case.features)
        if len(case.called) > 1:
            units = ((name, f"unit-{number % UNITS:03}") for number, name in enumerate(case.called))
            self.bodies = tuple(model.oip_request(1, model=name, unit=unit) for name, unit in units)

    def check(self, answer: bytes, rows: int = 1) -> None:
        if (found := model.oip_probabilities(answer, "score")) != [SCORE]:
            raise CannotMeasure(f"the stub's answer is not what came: {found}")

    def parts(self) -> dict[str, list[int]]:
        assert self._process is not None
        return {"gateway": [self._process.pid]}


def cases() -> list[Case]:
    """The table."""
    made = [Case(f"features {n}", (Endpoint(f"f{n:04}", features=n),), (f"f{n:04}",)) for n in FEATURES]
    for count in MODELS:
        names = [f"m{n:04}" for n in range(count)]
        # No replica: what is there but is not called.
        routes = tuple(Endpoint(name, (1,) if name == names[0] else (0,)) for name in names)
        streams = tuple(Endpoint(name) for name in names)
        made.append(Case(f"models {count}, as routes", routes, (names[0],)))
        if count > 1:
            made.append(Case(f"models {count}, as streams, one called", streams, (names[0],)))
            made.append(Case(f"models {count}, as streams, all called", streams, tuple(names)))
    for count in REPLICAS:
        if count > 1:
            made.append(
                Case(f"replicas {count}, of a revision without traffic", (Endpoint("r", (1, count)),), ("r",))
            )
        made.append(Case(f"replicas {count}, called", (Endpoint("r", (count,)),), ("r",)))
    made += [Case(f"arms {n}", (Endpoint("a", (1,) * n, arms=n),), ("a",)) for n in ARMS]
    return made


# Target → the cases whose CPU is compared, which are measured in turn.
PAIRS = {
    "models": (f"models {MODELS[0]}, as routes", f"models {MODELS[-1]}, as streams, one called"),
    "replicas": (
        f"replicas {REPLICAS[0]}, called",
        f"replicas {REPLICAS[-1]}, of a revision without traffic",
    ),
}


def measure(run: Run) -> list[Row]:
    """Each case on a gateway of its own; those of a pair stand at the same time."""
    table = {case.name: case for case in cases()}
    paired = {name for pair in PAIRS.values() for name in pair}
    found: dict[str, list[Figures]] = {}
    for pair in PAIRS.values():
        found |= interleaved(run, [table[name] for name in pair], len(found))
    few = replace(run, rounds=max(1, run.rounds // 2))
    for case in table.values():
        if case.name not in paired:
            found |= interleaved(few, [case], len(found))
    rows = []
    for key, pair in PAIRS.items():
        one, many = ([each.cpu["gateway"] for each in found[name]] for name in pair)
        rows.append(judged(key, ratios(many, one)))
    for name in table:
        rows += figure_rows(GROUP, name, [each.flat() for each in found[name]])
    return rows


def interleaved(run: Run, together: list[Case], number: int) -> dict[str, list[Figures]]:
    """Case → its rounds."""
    shape = Shape(in_flight=32, seconds=run.seconds / 2)
    with ExitStack() as stack:
        folders = [run.folder / f"{number}-{each}" for each in range(len(together))]
        gateways = [
            stack.enter_context(standing(folder, case))
            for folder, case in zip(folders, together, strict=True)
        ]
        cells = [Cell(case.name, each, shape) for case, each in zip(together, gateways, strict=True)]
        measured = measure_cells(run, cells)
    return {cell.case: measured[cell.key] for cell in cells}


@contextmanager
def standing(folder: Path, case: Case) -> Iterator[Stubbed]:
    """Kafka with the case's records, the stub, and the gateway that has applied them."""
    with ExitStack() as stack:
        say(f"  {case.name}")
        site = Site(folder)
        stack.callback(site.stop)
        site.start()
        stub = Stub(case.features, folder)
        stack.callback(stub.stop)
        site.publish(*(record for each in case.endpoints for record in records(each, stub.address)))
        gateway = Stubbed(site, case)
        stack.enter_context(started(gateway))
        yield gateway


def records(endpoint: Endpoint, address: str) -> list[Published]:
    """The endpoint's route, and its experiment where it has arms."""
    revisions = [
        Revision(
            f"{endpoint.name}.{number}",
            f"1.{number}.0",
            {f"{endpoint.name}.{number}-{replica}": address for replica in range(count)},
        )
        for number, count in enumerate(endpoint.replicas, start=1)
    ]
    made: list[Published] = [(topics.ROUTES, route_record(endpoint.name, revisions, 1, endpoint.features))]
    if endpoint.arms:
        arms = {f"arm-{number}": each.id for number, each in enumerate(revisions)}
        arms["control"] = arms.pop("arm-0")
        record = experiments_record(endpoint.name, arms, 2, share=10_000 // endpoint.arms)
        made.append((topics.EXPERIMENTS, record))
    return made
