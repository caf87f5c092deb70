"""gRPC in: phantom.deployer.v1.DeployerService. Wire to values, one call, values to wire."""

# ruff: noqa: N802 - the methods are called as the proto names them

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from phantom.deployer.v1 import deployer_service_pb2 as pb
from phantom.deployer.v1 import deployer_service_pb2_grpc as pb_grpc
from phantom.deployer.v1 import deployment_pb2
from phantom_deployer import converters as convert
from phantom_deployer.domain.acknowledgement import Waiting
from phantom_deployer.domain.deployment import Deployment
from phantom_deployer.domain.rollout import basis_points
from phantom_deployer.domain.status import Look
from phantom_deployer.domain.values import Answer, Call, Order
from phantom_deployer.service import Deployments, Queries
from phantom_platform.clock import Clock
from phantom_platform.errors import Refused

SERVICE = "phantom.deployer.v1.DeployerService"
Context = Any
# Callers without a deadline wait this long for acknowledgements, s.
DEFAULT_WAIT_S = 30.0


class DeployerRpc(pb_grpc.DeployerServiceServicer):
    """The door. Errors are mapped, and requests validated, by the platform's server."""

    def __init__(
        self,
        deployments: Deployments,
        queries: Queries,
        clock: Clock,
        waiting: Callable[[str, int], Waiting | None],
    ) -> None:
        self._deployments = deployments
        self._queries = queries
        self._clock = clock
        self._waiting = waiting

    async def CreateEnvironment(
        self, request: pb.CreateEnvironmentRequest, context: Context
    ) -> pb.CreateEnvironmentResponse:
        made = await self._deployments.create_environment(
            convert.to_call(request), request.name, request.type
        )
        return pb.CreateEnvironmentResponse(environment=convert.from_environment(made))

    async def ListEnvironments(
        self, request: pb.ListEnvironmentsRequest, context: Context
    ) -> pb.ListEnvironmentsResponse:
        found = await self._queries.environments(convert.workspace(request), *convert.to_page(request))
        return pb.ListEnvironmentsResponse(
            environments=map(convert.from_environment, found.items),
            next_page_token=convert.to_token(found.last),
        )

    async def Deploy(self, request: pb.DeployRequest, context: Context) -> pb.DeployResponse:
        call = convert.to_call(request)
        answer = await self._deployments.deploy(call, _order(call, request))
        return pb.DeployResponse(deployment=await self._after(call, answer), revision=answer.revision)

    async def GetDeployment(
        self, request: pb.GetDeploymentRequest, context: Context
    ) -> pb.GetDeploymentResponse:
        found = await self._queries.deployment(convert.workspace(request), request.deployment_id)
        return pb.GetDeploymentResponse(deployment=self._to_wire(found))

    async def ListDeployments(
        self, request: pb.ListDeploymentsRequest, context: Context
    ) -> pb.ListDeploymentsResponse:
        after, size = convert.to_page(request)
        found = await self._queries.deployments(convert.workspace(request), after, size, request.environment)
        return pb.ListDeploymentsResponse(
            deployments=map(self._to_wire, found.items), next_page_token=convert.to_token(found.last)
        )

    async def SetCanaryWeight(
        self, request: pb.SetCanaryWeightRequest, context: Context
    ) -> pb.SetCanaryWeightResponse:
        call = convert.to_call(request)
        answer = await self._deployments.set_weight(
            call, request.deployment_id, basis_points(request.percent)
        )
        await self._wait(call, answer, request.wait, context)
        return pb.SetCanaryWeightResponse(
            deployment=await self._after(call, answer), route_version=answer.route_version
        )

    async def CompleteRollout(
        self, request: pb.CompleteRolloutRequest, context: Context
    ) -> pb.CompleteRolloutResponse:
        call = convert.to_call(request)
        answer = await self._deployments.complete(call, request.deployment_id)
        await self._wait(call, answer, request.wait, context)
        return pb.CompleteRolloutResponse(
            deployment=await self._after(call, answer), route_version=answer.route_version
        )

    async def RollbackCanary(
        self, request: pb.RollbackCanaryRequest, context: Context
    ) -> pb.RollbackCanaryResponse:
        call = convert.to_call(request)
        answer = await self._deployments.roll_back(
            call, request.deployment_id, remove=request.remove, reason=request.reason
        )
        await self._wait(call, answer, request.wait, context)
        return pb.RollbackCanaryResponse(
            deployment=await self._after(call, answer), route_version=answer.route_version
        )

    async def ScaleDeployment(
        self, request: pb.ScaleDeploymentRequest, context: Context
    ) -> pb.ScaleDeploymentResponse:
        call = convert.to_call(request)
        answer = await self._deployments.scale(call, request.deployment_id, request.replicas)
        return pb.ScaleDeploymentResponse(deployment=await self._after(call, answer))

    async def DeleteDeployment(
        self, request: pb.DeleteDeploymentRequest, context: Context
    ) -> pb.DeleteDeploymentResponse:
        call = convert.to_call(request)
        answer = await self._deployments.delete(call, request.deployment_id)
        return pb.DeleteDeploymentResponse(deployment=await self._after(call, answer))

    async def GetRoute(self, request: pb.GetRouteRequest, context: Context) -> pb.GetRouteResponse:
        found, versions = await self._queries.route(
            convert.workspace(request), request.endpoint, request.version
        )
        return pb.GetRouteResponse(
            version=found.version, record_json=found.record_json or "", versions=versions
        )

    async def ListGateways(
        self, request: pb.ListGatewaysRequest, context: Context
    ) -> pb.ListGatewaysResponse:
        return pb.ListGatewaysResponse(gateways=map(convert.from_gateway, self._queries.gateways()))

    async def _wait(self, call: Call, answer: Answer, is_wanted: bool, context: Context) -> None:
        if not is_wanted or not answer.route_version:
            return
        remaining = context.time_remaining()
        timeout_s = DEFAULT_WAIT_S if remaining is None else min(remaining, DEFAULT_WAIT_S)
        key = f"{call.workspace}/{answer.deployment_id}"
        await self._queries.wait(key, answer.route_version, timeout_s)

    async def _after(self, call: Call, answer: Answer) -> deployment_pb2.Deployment | None:
        found = await self._queries.after_change(call.workspace, answer.deployment_id)
        return self._to_wire(found) if found else None

    def _to_wire(self, deployment: Deployment) -> deployment_pb2.Deployment:
        look = Look(deployment, self._clock.now(), self._waiting)
        return convert.from_deployment(look, self._queries.acknowledged(deployment))


def _order(call: Call, request: pb.DeployRequest) -> Order:
    if request.shadow:
        raise Refused(
            "a shadow is a rollout: begin one of strategy shadow, which says what share is copied and for how long",
            code="shadow_unsupported",
        )
    return Order(
        model_id=request.model_id,
        environment=request.environment,
        version=request.version,
        deployment_id=request.deployment_id,
        replicas=request.replicas,
        hash_field=request.hash_field,
        canary_bp=basis_points(request.canary_percent),
        is_vouched=request.requires_new_features,
        requester=convert.to_requester(call, request.on_behalf_of),
    )
