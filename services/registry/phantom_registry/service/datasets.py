"""Datasets, by content."""

from __future__ import annotations

from dataclasses import replace

from phantom_contracts import topics
from phantom_contracts.events import registry as events
from phantom_platform import audit
from phantom_platform.errors import AlreadyExists, Invalid, NotFound, Violation
from phantom_platform.idempotency import Once
from phantom_registry.domain.lineage import Edge, Kind, check_acyclic, edges_of_dataset
from phantom_registry.domain.values import Call, Dataset, Listed, Page
from phantom_registry.service.ports import Store, Work


class Datasets:
    """Use cases on datasets."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._once = Once(store)

    async def register(self, call: Call, dataset: Dataset) -> Dataset:
        """Add a version of a dataset; the same bytes again are the same version. `created_*` are set here.

        `AlreadyExists` `dataset_exists`; `Invalid` `unknown_source` for a source in `metadata.derived_from` that
        is not registered; `Refused` `lineage_cycle`.
        """
        audit.resource(f"{call.workspace}/{dataset.name}/{dataset.version}")
        edges = edges_of_dataset(dataset.name, dataset.version, dataset.metadata)

        async def work(tx: Work) -> Dataset:
            # Also makes versions of one dataset come one after the other.
            await tx.lock_graph(call.workspace)
            existing = await tx.dataset(call.workspace, dataset.name, dataset.version)
            if existing is not None:
                return _same(existing, dataset)
            new = replace(dataset, created_at=tx.now, created_by=call.actor.principal)
            await self._add_edges(tx, call.workspace, edges)
            await tx.add_dataset(call.workspace, new)
            event = events.DatasetRegistered(
                workspace=call.workspace,
                dataset=new.name,
                dataset_version=new.version,
                digest=new.digest,
                actor=new.created_by,
            )
            number = await tx.count_dataset(call.workspace, new.name)
            tx.announce(topics.REGISTRY_EVENTS, f"{call.workspace}/{new.name}", event, number)
            return new

        return await self._once.run(call, Dataset, work)

    async def get(self, workspace: str, name: str, version: str) -> Dataset:
        """The newest where no version is named. `NotFound` `dataset_not_found`."""
        found = await self._store.reads.dataset(workspace, name, version)
        if found is None:
            named = f"{name} {version}" if version else name
            raise NotFound(
                f"there is no dataset {named}", code="dataset_not_found", name=name, version=version
            )
        return found

    async def list_datasets(self, workspace: str, page: Page) -> Listed[Dataset]:
        """Newest first."""
        return await self._store.reads.datasets(workspace, page)

    async def _add_edges(self, tx: Work, workspace: str, edges: list[Edge]) -> None:
        for number, edge in enumerate(edges):
            source = edge.source
            if source.kind == Kind.DATASET:
                known = await tx.dataset(workspace, source.name, source.version) is not None
            else:
                known = await tx.version(workspace, source.name, source.version) is not None
            if not known:
                violation = Violation(f"metadata.derived_from[{number}]", f"{source} is not registered")
                raise Invalid(code="unknown_source", violations=[violation])
        upstream = await tx.reachable(workspace, [edge.source for edge in edges], downstream=False)
        check_acyclic(edges, upstream)
        await tx.add_edges(workspace, edges)


def _same(existing: Dataset, given: Dataset) -> Dataset:
    differs = [
        name
        for name in ("digest", "uri", "rows", "metadata")
        if getattr(existing, name) != getattr(given, name)
    ]
    if differs:
        raise AlreadyExists(
            f"dataset {given.name} {given.version} exists with other {', '.join(differs)} "
            f"(digest {existing.digest}); give other content another version",
            code="dataset_exists",
            existing_digest=existing.digest,
            given_digest=given.digest,
            differs=differs,
        )
    return existing
