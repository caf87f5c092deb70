"""Where versions come from, asked in both directions."""

from __future__ import annotations

from dataclasses import replace

from phantom_contracts.events import registry as events
from phantom_platform import audit
from phantom_platform.errors import AlreadyExists, NotFound
from phantom_platform.idempotency import Once
from phantom_platform.ids import new_id
from phantom_registry.domain.lineage import (
    Lineage,
    LineageContent,
    Node,
    check_acyclic,
    distances,
    edges_of_lineage,
    verification,
)
from phantom_registry.domain.values import Call, Version
from phantom_registry.service import find
from phantom_registry.service.models import announce
from phantom_registry.service.ports import Store, Work


class Lineages:
    """Use cases on lineage."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._once = Once(store)

    async def create(self, call: Call, model_id: str, version: str, content: LineageContent) -> Lineage:
        """Say where a version (without a name: the newest) comes from; once, or again with the same words.

        Hashes are compared with registered datasets as they are now. `AlreadyExists` `lineage_exists`; `Refused`
        `lineage_cycle`.
        """
        audit.resource(f"{call.workspace}/{model_id}/{version}")

        async def work(tx: Work) -> Lineage:
            await find.locked_model(tx, call.workspace, model_id)
            of = await find.version(tx, call.workspace, model_id, version)
            existing = await tx.lineage(call.workspace, model_id, of.version)
            if existing is not None:
                return _same(existing, content)
            return await self._add(tx, call, of, content)

        return await self._once.run(call, Lineage, work)

    async def get(self, workspace: str, model_id: str, version: str) -> Lineage:
        """Without a version: of the newest one that has lineage. `NotFound` `lineage_not_found`."""
        found = await self._store.reads.lineage(workspace, model_id, version)
        if found is None:
            await find.version(self._store.reads, workspace, model_id, version)
            named = f"{model_id} {version}" if version else f"any version of {model_id}"
            raise NotFound(f"no lineage was given for {named}", code="lineage_not_found")
        return found

    async def query(
        self, workspace: str, start: Node, *, downstream: bool, max_distance: int
    ) -> list[tuple[Node, int]]:
        """What `start` (any version, where it names none) was made from, or what was made from it; nearest first.

        `max_distance` 0: any. `NotFound` `lineage_node_not_found`.
        """
        starts = await self._store.reads.nodes(workspace, start.kind, start.name, start.version)
        if not starts:
            raise NotFound(
                f"nothing is known of the {str(start).strip()}",
                code="lineage_node_not_found",
                kind=start.kind.value,
                name=start.name,
                version=start.version,
            )
        edges = await self._store.reads.reachable(workspace, starts, downstream=downstream)
        found = distances(starts, edges, downstream=downstream, limit=max_distance or None)
        return sorted(
            ((node, far) for node, far in found.items() if far > 0), key=lambda each: (each[1], each[0])
        )

    async def _add(self, tx: Work, call: Call, of: Version, content: LineageContent) -> Lineage:
        await tx.lock_graph(call.workspace)
        content = await self._verified(tx, call.workspace, content)
        lineage = Lineage(new_id(), of.model_id, of.version, content, tx.now, call.actor.principal)
        edges = edges_of_lineage(of.model_id, of.version, content)
        check_acyclic(edges, await tx.reachable(call.workspace, [e.source for e in edges], downstream=False))
        await tx.add_lineage(call.workspace, lineage)
        await tx.add_edges(call.workspace, edges)
        event = events.LineageCreated(
            workspace=call.workspace,
            model_id=of.model_id,
            model_version=of.version,
            actor=lineage.created_by,
        )
        await announce(tx, event, of.model_id)
        return lineage

    async def _verified(self, tx: Work, workspace: str, content: LineageContent) -> LineageContent:
        sources = []
        for source in content.source_data:
            dataset = await tx.dataset(workspace, source.dataset, source.version)
            registered = dataset.digest if dataset is not None else None
            sources.append(replace(source, verification=verification(source.hash, registered)))
        return replace(content, source_data=tuple(sources))


def _same(existing: Lineage, content: LineageContent) -> Lineage:
    """Verification is ours, not theirs, so it is not compared."""
    unverified = tuple(replace(each, verification="unverified") for each in existing.content.source_data)
    if replace(existing.content, source_data=unverified) != content:
        raise AlreadyExists(
            f"{existing.model_id} {existing.version} has another lineage ({existing.lineage_id}); "
            "a version's lineage does not change, so give other facts another version",
            code="lineage_exists",
            lineage_id=existing.lineage_id,
        )
    return existing
