"""Every change. One transaction: state, routes and what is announced commit together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from phantom_contracts import topics
from phantom_contracts.events.base import Event
from phantom_contracts.events.deployer import RouteRecord
from phantom_deployer.domain.deployment import Deployment, Environment
from phantom_deployer.domain.values import KnownGateway
from phantom_deployer.store import rows
from phantom_deployer.store.evidence import EvidenceWrites
from phantom_deployer.store.reads import Reads
from phantom_deployer.store.rollouts import RolloutWrites


class Writes(Reads, RolloutWrites, EvidenceWrites):
    """Reads and changes of one transaction."""

    def announce(self, key: str, event: Event, number: int) -> None:
        """An event of a deployment; `number` is the deployment's own count of them."""
        self._tx.outbox.add(topics.DEPLOYER_EVENTS, key, event, version=number)

    # -- environments and names --------------------------------------------------------------------------------------

    async def add_environment(self, environment: Environment) -> bool:
        """False where one of that name exists."""
        sql = "INSERT INTO environments VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING"
        done = await self._tx.execute(
            sql,
            environment.workspace,
            environment.name,
            environment.type,
            environment.created_at,
            environment.created_by,
        )
        return done == "INSERT 0 1"

    async def take_name(self, workspace: str, name: str, deployment_id: str) -> bool:
        """False where a deployment, or its alias, has it."""
        sql = "INSERT INTO names VALUES ($1, $2, $3) ON CONFLICT DO NOTHING"
        return await self._tx.execute(sql, workspace, name, deployment_id) == "INSERT 0 1"

    async def move_names(self, workspace: str, names: Sequence[str], deployment_id: str) -> None:
        """They are another deployment's from now on."""
        sql = "UPDATE names SET deployment_id = $3 WHERE workspace = $1 AND name = ANY($2)"
        await self._tx.execute(sql, workspace, list(names), deployment_id)

    async def heirs(self, leaving: Deployment) -> list[str]:
        """Other deployments of its model in its environment that are there to stay, oldest first."""
        sql = """
            SELECT deployment_id FROM deployments
            WHERE workspace = $1 AND environment = $2 AND model_id = $3 AND deployment_id <> $4
                AND NOT is_deleting AND NOT is_deleted
            ORDER BY created_at, deployment_id"""
        found = await self._tx.fetch(
            sql, leaving.workspace, leaving.environment, leaving.model_id, leaving.id
        )
        return [each["deployment_id"] for each in found]

    async def free_names(self, workspace: str, deployment_id: str) -> None:
        sql = "DELETE FROM names WHERE workspace = $1 AND deployment_id = $2"
        await self._tx.execute(sql, workspace, deployment_id)

    # -- deployments -------------------------------------------------------------------------------------------------

    async def lock(self, workspace: str, deployment_id: str) -> Deployment | None:
        """The deployment, which nobody else changes until commit; a deleted one too."""
        sql = "SELECT * FROM deployments WHERE workspace = $1 AND deployment_id = $2 FOR UPDATE"
        row = await self._tx.fetchrow(sql, workspace, deployment_id)
        return await self._whole(row) if row else None

    async def save(self, before: Deployment | None, after: Deployment) -> None:
        """Write what differs."""
        sql = """
            INSERT INTO deployments (workspace, deployment_id, environment, model_id, replicas, hash_field, salt,
                stable, candidate, allocations, pending_bp, next_number, aliases, schema, is_deleting, is_deleted,
                route_version, version, created_at, created_by, shadow)
            VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10::jsonb, $11, $12, $13, $14::jsonb, $15, $16, $17, $18,
                $19, $20, $21::jsonb)
            ON CONFLICT (workspace, deployment_id) DO UPDATE SET
                environment = $3, model_id = $4, replicas = $5, hash_field = $6, salt = $7, stable = $8,
                candidate = $9, allocations = $10::jsonb, pending_bp = $11, next_number = $12, aliases = $13,
                schema = $14::jsonb, is_deleting = $15, is_deleted = $16, route_version = $17, version = $18,
                created_at = $19, created_by = $20, shadow = $21::jsonb"""
        await self._tx.execute(sql, *rows.from_deployment(after))
        known = {each.id: each for each in before.revisions} if before else {}
        for revision in after.revisions:
            if known.get(revision.id) == revision:
                continue
            sql = """
                INSERT INTO revisions (workspace, revision, deployment_id, number, model, phase, reason, error_code,
                    was_ready, target)
                VALUES ($1, $2, $3, $4, $5::jsonb, $6, $7, $8, $9, $10)
                ON CONFLICT (workspace, revision) DO UPDATE
                SET phase = $6, reason = $7, error_code = $8, was_ready = $9, target = $10"""
            values = (
                revision.phase, revision.reason, revision.error_code, revision.was_ready, revision.target,
            )  # fmt: skip
            await self._tx.execute(
                sql,
                after.workspace,
                revision.id,
                after.id,
                revision.number,
                rows.model_json(revision.model),
                *values,
            )
        await self._save_replicas(before, after)

    async def _save_replicas(self, before: Deployment | None, after: Deployment) -> None:
        known = {each.id: each for each in before.processes} if before else {}
        for replica in after.processes:
            if known.pop(replica.id, None) == replica:
                continue
            sql = """
                INSERT INTO replicas (replica_id, revision, drain_key, phase, address, pid, launch_id, launched_at,
                    ready_at, restarts, failures, next_start_at, is_leaving, drain_sent_at, reason, workspace,
                    deployment_id)
                VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)
                ON CONFLICT (replica_id) DO UPDATE
                SET phase = $4, address = $5, pid = $6, launch_id = $7, launched_at = $8, ready_at = $9,
                    restarts = $10, failures = $11, next_start_at = $12, is_leaving = $13, drain_sent_at = $14,
                    reason = $15"""
            await self._tx.execute(sql, *rows.from_replica(replica), after.workspace, after.id)
        if known:
            await self._tx.execute("DELETE FROM replicas WHERE replica_id = ANY($1)", list(known))
            await self._tx.execute("DELETE FROM routed WHERE replica_id = ANY($1)", list(known))

    # -- routes ------------------------------------------------------------------------------------------------------

    async def publish(self, workspace: str, endpoint: str, version: int, record: RouteRecord | None) -> None:
        """The route's next version: kept, announced, and what it names or drops noted. None ends the route."""
        self.announce_route(f"{workspace}/{endpoint}", version, record)
        sql = "INSERT INTO routes VALUES ($1, $2, $3, $4::jsonb, $5)"
        json = record.model_dump_json() if record else None
        await self._tx.execute(sql, workspace, endpoint, version, json, self.now)
        named = [replica.id for each in record.revisions for replica in each.replicas] if record else []
        await self._note(workspace, endpoint, version, named)

    def announce_route(self, key: str, version: int, record: RouteRecord | None) -> None:
        if record is None:
            self._tx.outbox.add_tombstone(topics.ROUTES, key, version=version)
        else:
            self._tx.outbox.add(topics.ROUTES, key, record, version=version)

    async def is_on_its_way(self, key: str) -> bool:
        """Whether a version of that route waits to be published."""
        sql = "SELECT EXISTS (SELECT FROM outbox WHERE topic = $1 AND key = $2)"
        return bool(await self._tx.fetchval(sql, topics.ROUTES.name, key.encode()))

    async def _note(self, workspace: str, endpoint: str, version: int, named: list[str]) -> None:
        sql = """
            UPDATE routed SET left_at = $3
            WHERE workspace = $1 AND endpoint = $2 AND left_at IS NULL AND replica_id <> ALL($4)"""
        await self._tx.execute(sql, workspace, endpoint, version, named)
        sql = """
            INSERT INTO routed (workspace, endpoint, replica_id) SELECT $1, $2, unnest($3::text[])
            ON CONFLICT (replica_id, workspace, endpoint) DO UPDATE SET left_at = NULL"""
        await self._tx.execute(sql, workspace, endpoint, named)

    # -- gateways ----------------------------------------------------------------------------------------------------

    async def save_gateways(
        self, seen: Iterable[KnownGateway], gone: Iterable[str], offsets: dict[int, int]
    ) -> None:
        """How far route-acks has been read, and who was there by then."""
        await self._tx.execute("DELETE FROM gateways WHERE boot_id = ANY($1)", list(gone))
        sql = """
            INSERT INTO gateways VALUES ($1, $2)
            ON CONFLICT (boot_id) DO UPDATE SET last_seen = EXCLUDED.last_seen"""
        await self._tx.executemany(sql, [(each.boot_id, each.last_seen) for each in seen])
        sql = """
            INSERT INTO ack_offsets VALUES ($1, $2)
            ON CONFLICT (partition) DO UPDATE SET next_offset = EXCLUDED.next_offset"""
        await self._tx.executemany(sql, list(offsets.items()))
