"""Every SELECT. Works on the database (each statement by itself) and inside a transaction alike."""

from __future__ import annotations

from collections.abc import Sequence

from phantom_deployer.domain.deployment import Deployment, Environment, Replica
from phantom_deployer.domain.routing import RoutedRevision
from phantom_deployer.domain.values import KnownGateway, Listed, RouteVersion
from phantom_deployer.store import rows
from phantom_deployer.store.evidence import EvidenceReads
from phantom_deployer.store.rollouts import RolloutReads
from phantom_deployer.store.rows import Row


class Reads(RolloutReads, EvidenceReads):
    """Reads of one workspace each, but for what the reconciler and the acknowledgements need."""

    ANSWERS = "requests"

    async def environment(self, workspace: str, name: str) -> Environment | None:
        sql = "SELECT * FROM environments WHERE workspace = $1 AND name = $2"
        row = await self._sql.fetchrow(sql, workspace, name)
        return rows.to_environment(row) if row else None

    async def environments(self, workspace: str, after: str, size: int) -> Listed[Environment]:
        sql = "SELECT * FROM environments WHERE workspace = $1 AND name > $2 ORDER BY name LIMIT $3"
        found = [rows.to_environment(each) for each in await self._sql.fetch(sql, workspace, after, size + 1)]
        return Listed(found[:size], found[size - 1].name if len(found) > size else "")

    async def resolve(self, workspace: str, name: str) -> str | None:
        """The deployment that has this name or alias."""
        sql = "SELECT deployment_id FROM names WHERE workspace = $1 AND name = $2"
        found: str | None = await self._sql.fetchval(sql, workspace, name)
        return found

    async def deployment(self, workspace: str, deployment_id: str) -> Deployment | None:
        sql = "SELECT * FROM deployments WHERE workspace = $1 AND deployment_id = $2"
        row = await self._sql.fetchrow(sql, workspace, deployment_id)
        return await self._whole(row) if row else None

    async def deployments(
        self, workspace: str, after: str, size: int, environment: str
    ) -> Listed[Deployment]:
        sql = """
            SELECT * FROM deployments
            WHERE workspace = $1 AND deployment_id > $2 AND NOT is_deleted AND ($4 = '' OR environment = $4)
            ORDER BY deployment_id LIMIT $3"""
        found = await self._sql.fetch(sql, workspace, after, size + 1, environment)
        items = [await self._whole(each) for each in found[:size]]
        return Listed(items, items[-1].id if len(found) > size else "")

    async def keys(self) -> list[tuple[str, str]]:
        """(workspace, id) of every deployment that is not gone."""
        found = await self._sql.fetch("SELECT workspace, deployment_id FROM deployments WHERE NOT is_deleted")
        return [(each["workspace"], each["deployment_id"]) for each in found]

    async def replica_ids(self) -> frozenset[str]:
        """Every replica of every workspace."""
        found = await self._sql.fetch("SELECT replica_id FROM replicas")
        return frozenset(each["replica_id"] for each in found)

    async def route(self, workspace: str, endpoint: str, version: int) -> RouteVersion | None:
        """That version, 0 for the newest."""
        sql = """
            SELECT version, record::text AS record, created_at FROM routes
            WHERE workspace = $1 AND endpoint = $2 AND ($3::bigint = 0 OR version = $3)
            ORDER BY version DESC LIMIT 1"""
        row = await self._sql.fetchrow(sql, workspace, endpoint, version)
        return RouteVersion(row["version"], row["record"], row["created_at"]) if row else None

    async def route_versions(self, workspace: str, endpoint: str) -> list[int]:
        sql = "SELECT version FROM routes WHERE workspace = $1 AND endpoint = $2 ORDER BY version"
        return [each["version"] for each in await self._sql.fetch(sql, workspace, endpoint)]

    async def gateways(self) -> list[KnownGateway]:
        found = await self._sql.fetch("SELECT boot_id, last_seen FROM gateways")
        return [KnownGateway(each["boot_id"], each["last_seen"]) for each in found]

    async def ack_offsets(self) -> dict[int, int]:
        found = await self._sql.fetch("SELECT partition, next_offset FROM ack_offsets")
        return {each["partition"]: each["next_offset"] for each in found}

    async def arms(self, workspace: str, revision_ids: Sequence[str]) -> list[RoutedRevision]:
        """Revisions of any deployment with their serving replicas, which stay as they are until commit."""
        sql = """
            SELECT * FROM revisions
            WHERE workspace = $1 AND revision = ANY($2) AND was_ready AND phase <> 'withdrawn' ORDER BY revision"""
        found = [rows.to_revision(each) for each in await self._sql.fetch(sql, workspace, list(revision_ids))]
        # Who marks one of them as leaving waits for us, and then sees that our route names it.
        sql = """
            SELECT * FROM replicas
            WHERE workspace = $1 AND revision = ANY($2) AND phase = 'ready' AND NOT is_leaving
            ORDER BY replica_id FOR SHARE"""
        serving = [
            rows.to_replica(each) for each in await self._sql.fetch(sql, workspace, list(revision_ids))
        ]
        return [
            RoutedRevision(
                each, tuple(r for r in serving if r.revision == each.id), each.phase != "rolled_back"
            )
            for each in found
        ]

    async def _whole(self, row: Row) -> Deployment:
        workspace, deployment_id = row["workspace"], row["deployment_id"]
        sql = """
            SELECT * FROM revisions
            WHERE workspace = $1 AND deployment_id = $2 AND phase <> 'withdrawn' ORDER BY number"""
        revisions = await self._sql.fetch(sql, workspace, deployment_id)
        return rows.to_deployment(
            row,
            tuple(rows.to_revision(each) for each in revisions),
            await self._processes(workspace, deployment_id),
        )

    async def _processes(self, workspace: str, deployment_id: str) -> tuple[Replica, ...]:
        sql = "SELECT * FROM replicas WHERE workspace = $1 AND deployment_id = $2 ORDER BY replica_id"
        found = await self._sql.fetch(sql, workspace, deployment_id)
        # One statement, or a route that changes in between would seem neither to name a replica nor to have dropped it.
        sql = """
            SELECT replica_id, workspace, endpoint, left_at FROM routed
            WHERE replica_id = ANY($1) ORDER BY endpoint"""
        routed: dict[str, list[Row]] = {}
        for each in await self._sql.fetch(sql, [each["replica_id"] for each in found]):
            routed.setdefault(each["replica_id"], []).append(each)
        return tuple(rows.to_replica(each, routed.get(each["replica_id"], ())) for each in found)
