"""What callers may ask, and waiting until gateways have followed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from phantom_deployer.domain.acknowledgement import Gateway
from phantom_deployer.domain.deployment import Deployment, Environment
from phantom_deployer.domain.values import Listed, RouteVersion
from phantom_deployer.service.deployments import not_found
from phantom_deployer.service.ports import Acknowledged, Store
from phantom_platform.clock import Clock
from phantom_platform.errors import DeadlineExceeded, NotFound

# Answers that say what was not acknowledged need this much of the caller's time, s.
MARGIN_S = 0.2


class Queries:
    """Reads. `changed(timeout_s)` returns when gateways have acknowledged something, or after the timeout."""

    def __init__(
        self,
        store: Store,
        acks: Acknowledged,
        clock: Clock,
        changed: Callable[[float], Awaitable[None]],
    ) -> None:
        self._store = store
        self._acks = acks
        self._clock = clock
        self._changed = changed

    async def environments(self, workspace: str, after: str, size: int) -> Listed[Environment]:
        return await self._store.reads.environments(workspace, after, size)

    async def deployment(self, workspace: str, name: str) -> Deployment:
        """By id or alias."""
        deployment_id = await self._store.reads.resolve(workspace, name)
        found = await self._store.reads.deployment(workspace, deployment_id) if deployment_id else None
        if found is None or found.is_deleted:
            raise not_found(name)
        return found

    async def after_change(self, workspace: str, deployment_id: str) -> Deployment | None:
        """The deployment by its id, even where it is gone by now."""
        return await self._store.reads.deployment(workspace, deployment_id)

    async def deployments(
        self, workspace: str, after: str, size: int, environment: str
    ) -> Listed[Deployment]:
        return await self._store.reads.deployments(workspace, after, size, environment)

    async def route(self, workspace: str, name: str, version: int) -> tuple[RouteVersion, list[int]]:
        """A version of a route (0: the newest) and the versions that are kept; also of a deleted deployment."""
        endpoint = await self._store.reads.resolve(workspace, name) or name
        versions = await self._store.reads.route_versions(workspace, endpoint)
        if not versions:
            raise NotFound(
                f"there is no route of {name!r}; a deployment has one once its first revision is ready",
                code="endpoint_not_found",
                endpoint=name,
            )
        found = await self._store.reads.route(workspace, endpoint, version)
        if found is None or found.record_json is None:
            what = "does not exist" if found is None else "is the end of the route and has no record"
            raise NotFound(
                f"version {version or versions[-1]} of the route of {endpoint} {what}; there are {versions[0]} to "
                f"{versions[-1]}",
                code="route_version_not_found",
                endpoint=endpoint,
                version=version,
            )
        return found, versions

    def gateways(self) -> list[Gateway]:
        return sorted(self._acks.gateways.values(), key=lambda each: each.boot_id)

    def acknowledged(self, deployment: Deployment) -> int:
        """The newest route version that every live gateway has applied."""
        return self._acks.acknowledged(deployment.key, deployment.route_version)

    async def wait(self, key: str, version: int, timeout_s: float) -> None:
        """Until every live gateway has applied that version of the route. The change itself is committed already."""
        deadline = self._clock.monotonic() + timeout_s - MARGIN_S
        while (waiting := self._acks.waiting(key, version, "applied")) is not None:
            left = deadline - self._clock.monotonic()
            if left <= 0:
                raise DeadlineExceeded(
                    f"route {version} is committed, but not acknowledged yet: {waiting.reason}",
                    code="not_acknowledged",
                    route_version=version,
                    gateways=", ".join(waiting.gateways),
                )
            await self._changed(left)
