"""`Deployments` and `Environments`: put versions behind an endpoint and move traffic between them."""

from __future__ import annotations

import builtins
import json
import time
from collections.abc import Callable
from typing import Any

from phantom.deployer.v1 import deployer_service_pb2 as rpc
from phantom.deployer.v1 import deployer_service_pb2_grpc as stubs
from phantom_ml_studio import values
from phantom_ml_studio.client import Client, new_request_id
from phantom_ml_studio.errors import Failed, TimedOut
from phantom_ml_studio.routes import Route

_POLL_S = 0.1


class Environments:
    """Where deployments run."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._stub = stubs.DeployerServiceStub(client.channel)

    def create(self, name: str, type: str = "local", request_id: str | None = None) -> values.Environment:
        """Create an environment. Errors: Unsupported where the type is not built; AlreadyExists."""
        request = rpc.CreateEnvironmentRequest(name=name, type=type, request_id=new_request_id(request_id))
        return values.Environment.of(self._client.call(self._stub.CreateEnvironment, request).environment)

    def list(self) -> list[values.Environment]:
        """Every environment."""
        pages = self._client.pages(self._stub.ListEnvironments, rpc.ListEnvironmentsRequest(), "environments")
        return [values.Environment.of(e) for e in pages]


class Deployments:
    """Deployments and the canaries on them. Raises the errors of `phantom_ml_studio.errors`."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._stub = stubs.DeployerServiceStub(client.channel)

    def deploy(
        self,
        model_id: str,
        version: str = "",
        environment: str = "production",
        *,
        deployment_id: str = "",
        replicas: int = 0,
        hash_field: str = "",
        canary_percent: float = 0.0,
        requires_new_features: bool = False,
        request_id: str | None = None,
    ) -> values.Deployment:
        """Deploy a version: the first of a deployment takes all traffic, a further one becomes its candidate.

        `replicas` and `hash_field` (the unit that is kept on one revision; user_id by default) are for a new
        deployment, `canary_percent` and `requires_new_features` for a candidate. Returns at once: see `wait_ready`.
        Errors: NotFound; Refused `candidate_live`, `schema_missing`, `new_features_required`.
        """
        request = rpc.DeployRequest(
            model_id=model_id,
            version=version,
            environment=environment,
            deployment_id=deployment_id,
            replicas=replicas,
            hash_field=hash_field,
            canary_percent=canary_percent,
            requires_new_features=requires_new_features,
            request_id=new_request_id(request_id),
        )
        return values.Deployment.of(self._client.call(self._stub.Deploy, request).deployment)

    def get(self, deployment_id: str) -> values.Deployment:
        """By id or alias. Errors: NotFound `deployment_not_found`."""
        request = rpc.GetDeploymentRequest(deployment_id=deployment_id)
        return values.Deployment.of(self._client.call(self._stub.GetDeployment, request).deployment)

    def list(self, environment: str = "") -> list[values.Deployment]:
        """Every deployment, of one environment where named."""
        request = rpc.ListDeploymentsRequest(environment=environment)
        pages = self._client.pages(self._stub.ListDeployments, request, "deployments")
        return [values.Deployment.of(d) for d in pages]

    def wait_ready(
        self, deployment_id: str, timeout_s: float = 120.0, on_change: Callable[[str], None] | None = None
    ) -> values.Deployment:
        """Wait until every live revision is ready, with all its replicas, and the gateways know its route.

        `on_change` is told each new reason. Errors: Failed `revision_failed`; TimedOut `not_ready` with the reason.
        """
        give_up, told = time.monotonic() + timeout_s, ""
        while True:
            deployment = self.get(deployment_id)
            revisions = [r for r in (deployment.stable, deployment.candidate) if r is not None]
            failed = next((r for r in revisions if r.phase == "failed"), None)
            if failed is not None:
                raise Failed(f"{failed.revision} failed: {failed.reason}", code="revision_failed")
            is_known = deployment.acknowledged_route_version >= deployment.route_version > 0
            # Of a revision that was ready, replicas may have ended since: after a restart of everything, all of them.
            is_whole = deployment.phase != "degraded"
            if revisions and is_known and is_whole and all(r.phase == "ready" for r in revisions):
                return deployment
            reason = deployment.reason or "the gateways have not all applied the route"
            if on_change and reason != told:
                on_change(reason)
            told = reason
            if time.monotonic() > give_up:
                raise TimedOut(
                    f"{deployment_id} is not ready after {timeout_s:g} s: {reason}", code="not_ready"
                )
            time.sleep(_POLL_S)

    def wait_withdrawn(self, deployment_id: str, timeout_s: float = 60.0) -> values.Deployment:
        """Wait until no revision is being taken away any more. Errors: TimedOut `not_withdrawn`."""
        give_up = time.monotonic() + timeout_s
        while (deployment := self.get(deployment_id)).withdrawing:
            if time.monotonic() > give_up:
                names = ", ".join(f"{r.revision}: {r.reason}" for r in deployment.withdrawing)
                raise TimedOut(f"still being withdrawn after {timeout_s:g} s: {names}", code="not_withdrawn")
            time.sleep(_POLL_S)
        return deployment

    def set_canary_weight(
        self, deployment_id: str, percent: float, *, wait: bool = True, request_id: str | None = None
    ) -> values.Deployment:
        """Give the candidate this share of the units, up or down.

        With `wait`, returns once every gateway routes by it. Errors: Refused `no_candidate`, `candidate_not_ready`;
        TimedOut `not_acknowledged` (the share is set all the same).
        """
        request = rpc.SetCanaryWeightRequest(
            deployment_id=deployment_id, percent=percent, wait=wait, request_id=new_request_id(request_id)
        )
        return values.Deployment.of(self._client.call(self._stub.SetCanaryWeight, request).deployment)

    def complete_rollout(
        self, deployment_id: str, *, wait: bool = True, request_id: str | None = None
    ) -> values.Deployment:
        """Make the candidate the stable revision; the old one is withdrawn without losing a request."""
        request = rpc.CompleteRolloutRequest(
            deployment_id=deployment_id, wait=wait, request_id=new_request_id(request_id)
        )
        return values.Deployment.of(self._client.call(self._stub.CompleteRollout, request).deployment)

    def rollback_canary(
        self,
        deployment_id: str,
        *,
        remove: bool = False,
        reason: str = "",
        wait: bool = True,
        request_id: str | None = None,
    ) -> values.Deployment:
        """Take all traffic from the candidate (and, with `remove`, the candidate away)."""
        request = rpc.RollbackCanaryRequest(
            deployment_id=deployment_id,
            remove=remove,
            reason=reason,
            wait=wait,
            request_id=new_request_id(request_id),
        )
        return values.Deployment.of(self._client.call(self._stub.RollbackCanary, request).deployment)

    def scale(self, deployment_id: str, replicas: int, request_id: str | None = None) -> values.Deployment:
        """Change the number of replicas of every live revision."""
        request = rpc.ScaleDeploymentRequest(
            deployment_id=deployment_id, replicas=replicas, request_id=new_request_id(request_id)
        )
        return values.Deployment.of(self._client.call(self._stub.ScaleDeployment, request).deployment)

    def delete(self, deployment_id: str, request_id: str | None = None) -> values.Deployment:
        """Take the endpoint away, then its replicas."""
        request = rpc.DeleteDeploymentRequest(
            deployment_id=deployment_id, request_id=new_request_id(request_id)
        )
        return values.Deployment.of(self._client.call(self._stub.DeleteDeployment, request).deployment)

    def route(self, endpoint: str, version: int = 0) -> Route:
        """The route of an endpoint at a version (0: the newest), with which decisions can be recomputed.

        Errors: NotFound `endpoint_not_found`, `route_version_not_found`.
        """
        request = rpc.GetRouteRequest(endpoint=endpoint, version=version)
        record: dict[str, Any] = json.loads(self._client.call(self._stub.GetRoute, request).record_json)
        return Route.of(record)

    def route_versions(self, endpoint: str) -> builtins.list[int]:
        """The versions of an endpoint's route that are kept, ascending."""
        return list(self._client.call(self._stub.GetRoute, rpc.GetRouteRequest(endpoint=endpoint)).versions)

    def gateways(self) -> builtins.list[values.Gateway]:
        """The gateways that are known, and how far each has followed the routes."""
        response = self._client.call(self._stub.ListGateways, rpc.ListGatewaysRequest())
        return [values.Gateway.of(gateway) for gateway in response.gateways]
