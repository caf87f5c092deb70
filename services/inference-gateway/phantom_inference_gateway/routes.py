"""The routes and experiments as they stand, from the compacted topics or from a draining replica's own record.

A newer record is compiled at once (a bad one raises, and the last good one stays), its new replicas are connected,
and it is applied when each was tried, or after a bound: so a revision that is given traffic in the same record
that names it does not meet a closed stream.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import Protocol

from phantom_contracts.events.deployer import BucketRange, RouteRecord, RouteRevision
from phantom_contracts.events.experiment import ExperimentsRecord, RunningExperiment
from phantom_contracts.events.gateway import EndpointProgress
from phantom_inference_gateway.attempts import Target
from phantom_inference_gateway.domain.routing import (
    ExperimentSpec,
    Plan,
    RevisionSpec,
    RouteSpec,
    ShadowSpec,
    shorten,
)
from phantom_inference_gateway.domain.tables import History, Table
from phantom_platform.errors import NotFound
from phantom_platform.telemetry import logs
from phantom_statistics.assignment import Allocation

log = logs.get(__name__)

APPLY_WITHIN_S = 0.3
"""How long a new record waits for its new replicas' streams before it is applied without them."""


class Replicas(Protocol):
    """The connections behind the routes."""

    def open(self, record: RouteRecord) -> list[asyncio.Event]:
        """Connect what the record names and is not connected, and hand its schema to all of the endpoint's streams.

        Returns what is set when each new one was tried.
        """
        ...

    def targets(self, record: RouteRecord, revision: RouteRevision) -> list[Target]:
        """The revision's replicas, all of which were opened."""
        ...

    def keep_only(self, key: str, record: RouteRecord | None) -> None:
        """Retire what the endpoint's record no longer names."""
        ...


class _Endpoint:
    """What is known of one endpoint, applied or about to be."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.record: RouteRecord | None = None
        self.version = 0
        self.experiments: ExperimentsRecord | None = None
        self.experiments_version = 0
        self.history: History[Target] = History()
        self.staged: Table[Target] | None = None


class Routes:
    """Look-ups for calls, changes from projections, progress for acknowledgements."""

    def __init__(
        self,
        replicas: Replicas,
        on_routed: Callable[[Collection[str]], None] = lambda keys: None,
        apply_within_s: float = APPLY_WITHIN_S,
    ) -> None:
        self._replicas = replicas
        self._on_routed = on_routed
        self._apply_within_s = apply_within_s
        self._endpoints: dict[str, _Endpoint] = {}
        # workspace → endpoint or alias → endpoint
        self._names: dict[str, dict[str, _Endpoint]] = {}
        self._staging: set[asyncio.Task[None]] = set()
        # Of draining replicas: not valid, or another endpoint's.
        self.refused_records = 0

    # -- for calls -----------------------------------------------------------------------------------------

    def find(self, workspace: str, name: str) -> Table[Target]:
        """The applied table of an endpoint or alias; `NotFound` where there is none."""
        names = self._names.get(workspace)
        found = names.get(name) if names is not None else None
        if found is None or found.history.current is None:
            raise NotFound(
                f"there is no endpoint {shorten(name)!r} in workspace {shorten(workspace)!r}; "
                "`phantom-ml-studio deployments list` shows what there is",
                code="endpoint_not_found",
                endpoint=shorten(name),
                workspace=shorten(workspace),
            )
        return found.history.current

    def names(self, workspace: str) -> list[str]:
        """The endpoints of a workspace, sorted; no aliases."""
        found = self._names.get(workspace, {})
        return sorted({each.record.endpoint for each in found.values() if each.record is not None})

    def record(self, table: Table[Target]) -> RouteRecord | None:
        """The newest route record of a table's endpoint."""
        return self._endpoints[table.key].record

    # -- for projections and draining replicas ---------------------------------------------------------------

    def route_changed(self, key: str, record: RouteRecord, version: int) -> None:
        """Take a record; not newer than the known one: ignored. Raises ValueError for one that cannot be served."""
        if key != f"{record.workspace}/{record.endpoint}" or version != record.version:
            raise ValueError(f"the record says {record.workspace}/{record.endpoint} version {record.version}")
        endpoint = self._endpoints.get(key) or _Endpoint(key)
        if version <= endpoint.version:
            return
        Plan(_spec(record, None))  # the route must stand without its experiments
        endpoint.record, endpoint.version = record, version
        self._endpoints[key] = endpoint
        self._stage(endpoint)

    def route_deleted(self, key: str, version: int) -> None:
        """The endpoint is gone; calls under way end as they would have."""
        endpoint = self._endpoints.setdefault(key, _Endpoint(key))
        if version <= endpoint.version:
            return
        endpoint.record, endpoint.version, endpoint.staged = None, version, None
        self._replicas.keep_only(key, None)
        endpoint.history.replace(None, version, endpoint.experiments_version)
        self._index()

    def experiments_changed(self, key: str, record: ExperimentsRecord, version: int) -> None:
        """Take an endpoint's experiments. Raises ValueError for a record that cannot be served."""
        endpoint = self._endpoints.setdefault(key, _Endpoint(key))
        if version <= endpoint.experiments_version:
            return
        if endpoint.record is not None:
            Plan(_spec(endpoint.record, record))
        endpoint.experiments, endpoint.experiments_version = record, version
        if endpoint.record is not None:
            self._stage(endpoint)

    def experiments_deleted(self, key: str, version: int) -> None:
        """The endpoint has no experiments any longer."""
        endpoint = self._endpoints.setdefault(key, _Endpoint(key))
        if version <= endpoint.experiments_version:
            return
        endpoint.experiments, endpoint.experiments_version = None, version
        if endpoint.record is not None:
            self._stage(endpoint)

    def drained_by(self, key: str, replica_id: str, route_record: bytes) -> None:
        """Apply the record that a draining replica carries as if it had come from Kafka.

        `key` is the endpoint of the stream it came on: a record of any other one is refused.
        """
        if not route_record:
            return
        try:
            record = RouteRecord.model_validate_json(route_record)
            self.route_changed(key, record, record.version)
        except ValueError as error:
            self.refused_records += 1
            log.error(
                "a draining replica's route record is refused",
                action="bad_draining_record",
                replica=replica_id,
                endpoint=key,
                reason=str(error),
            )

    # -- for acknowledgements --------------------------------------------------------------------------------

    def progress(self) -> dict[str, EndpointProgress]:
        """Per endpoint: the versions applied and drained."""
        return {
            key: EndpointProgress(
                applied=each.history.applied,
                drained=each.history.drained(),
                experiment=each.history.experiment,
            )
            for key, each in self._endpoints.items()
            if each.history.applied
        }

    def revisions(self) -> set[tuple[str, str]]:
        """(endpoint key, revision) of everything that the applied routes hold."""
        return {
            (key, revision)
            for key, each in self._endpoints.items()
            if each.history.current is not None
            for revision in each.history.current.plan.revisions
        }

    async def settled(self) -> None:
        """Returns when everything that was taken so far is applied."""
        while self._staging:
            await asyncio.wait(set(self._staging))

    # -- applying --------------------------------------------------------------------------------------------

    def _stage(self, endpoint: _Endpoint) -> None:
        record = endpoint.record
        if record is None:
            return
        untried = self._replicas.open(record)
        table = self._compile(endpoint, record)
        endpoint.staged = table
        if not untried:
            self._apply(endpoint, table)
            return
        task = asyncio.create_task(self._apply_when_tried(endpoint, table, untried))
        self._staging.add(task)
        task.add_done_callback(self._staging.discard)

    async def _apply_when_tried(
        self, endpoint: _Endpoint, table: Table[Target], untried: list[asyncio.Event]
    ) -> None:
        waits = [asyncio.ensure_future(each.wait()) for each in untried]
        await asyncio.wait(waits, timeout=self._apply_within_s)
        for each in waits:
            each.cancel()
        if endpoint.staged is table:
            self._apply(endpoint, table)

    def _apply(self, endpoint: _Endpoint, table: Table[Target]) -> None:
        endpoint.staged = None
        endpoint.history.replace(table, table.version, table.experiment_version)
        self._replicas.keep_only(endpoint.key, endpoint.record)
        self._index()
        log.info(
            "route applied",
            action="route_applied",
            endpoint=endpoint.key,
            version=table.version,
            experiments=table.experiment_version,
        )

    def _compile(self, endpoint: _Endpoint, record: RouteRecord) -> Table[Target]:
        try:
            plan = Plan(_spec(record, endpoint.experiments))
        except ValueError as error:
            log.error(
                "experiments do not fit the route and are left out",
                action="bad_experiments",
                endpoint=endpoint.key,
                reason=str(error),
            )
            plan = Plan(_spec(record, None))
        return Table(
            workspace=record.workspace,
            endpoint=record.endpoint,
            key=endpoint.key,
            version=endpoint.version,
            experiment_version=endpoint.experiments_version,
            plan=plan,
            targets={each.id: self._replicas.targets(record, each) for each in record.revisions},
        )

    def _index(self) -> None:
        """Names anew: aliases first, so that an endpoint's own name wins over another's alias."""
        live = [
            (each, each.record)
            for each in self._endpoints.values()
            if each.record is not None and each.history.current is not None
        ]
        names: dict[str, dict[str, _Endpoint]] = {}
        for each, record in live:
            names.setdefault(record.workspace, {}).update(dict.fromkeys(record.aliases, each))
        for each, record in live:
            names[record.workspace][record.endpoint] = each
        self._names = names
        self._on_routed([each.key for each, _ in live])


def _spec(record: RouteRecord, experiments: ExperimentsRecord | None) -> RouteSpec:
    return RouteSpec(
        version=record.version,
        hash_field=record.hash_field,
        salt=record.salt,
        allocations=_allocations(record.allocations),
        arms=record.arms,
        revisions=tuple(
            RevisionSpec(each.id, each.model_version, each.pinnable) for each in record.revisions
        ),
        experiments=tuple(_experiment(each) for each in experiments.experiments) if experiments else (),
        shadow=(
            ShadowSpec(record.shadow.revision, record.shadow.salt, record.shadow.bp)
            if record.shadow is not None
            else None
        ),
    )


def _experiment(running: RunningExperiment) -> ExperimentSpec:
    return ExperimentSpec(
        id=running.id,
        version=running.version,
        gate_salt=running.gate.salt,
        gate_start=running.gate.start,
        gate_end=running.gate.end,
        salt=running.salt,
        hash_field=running.hash_field,
        forced=running.forced,
        allocations=_allocations(running.allocations),
        arms=running.arms,
    )


def _allocations(ranges: Collection[BucketRange]) -> tuple[Allocation, ...]:
    return tuple(Allocation(each.start, each.end, each.arm) for each in ranges)
