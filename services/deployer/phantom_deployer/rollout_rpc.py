"""gRPC in: phantom.deployer.v1.RolloutService. Wire to values, one call, values to wire."""

# ruff: noqa: N802 - the methods are called as the proto names them

from __future__ import annotations

from typing import Any

from phantom.deployer.v1 import rollout_pb2
from phantom.deployer.v1 import rollout_service_pb2 as pb
from phantom.deployer.v1 import rollout_service_pb2_grpc as pb_grpc
from phantom_deployer import converters
from phantom_deployer import rollout_converters as convert
from phantom_deployer.domain.rollouts.model import Rollout
from phantom_deployer.domain.values import Call, RolloutAnswer, RolloutOrder
from phantom_deployer.service import Rollouts

SERVICE = "phantom.deployer.v1.RolloutService"
Context = Any


class RolloutRpc(pb_grpc.RolloutServiceServicer):
    """The door. Errors are mapped, and requests validated, by the platform's server."""

    def __init__(self, rollouts: Rollouts) -> None:
        self._rollouts = rollouts

    async def CreateRollout(
        self, request: pb.CreateRolloutRequest, context: Context
    ) -> pb.CreateRolloutResponse:
        call = converters.to_call(request)
        answer = await self._rollouts.create(call, _order(call, request))
        return pb.CreateRolloutResponse(rollout=await self._after(call, answer))

    async def GetRollout(self, request: pb.GetRolloutRequest, context: Context) -> pb.GetRolloutResponse:
        found = await self._rollouts.get(converters.workspace(request), request.rollout_id)
        return pb.GetRolloutResponse(rollout=await self._to_wire(found))

    async def ListRollouts(
        self, request: pb.ListRolloutsRequest, context: Context
    ) -> pb.ListRolloutsResponse:
        before, size = converters.to_page(request)
        found = await self._rollouts.list(
            converters.workspace(request), before, size, request.deployment_id, request.live_only
        )
        return pb.ListRolloutsResponse(
            rollouts=[await self._to_wire(each) for each in found.items],
            next_page_token=converters.to_token(found.last),
        )

    async def PromoteRollout(
        self, request: pb.PromoteRolloutRequest, context: Context
    ) -> pb.PromoteRolloutResponse:
        call = converters.to_call(request)
        percent = request.target_percentage if request.HasField("target_percentage") else None
        answer = await self._rollouts.promote(call, request.rollout_id, percent)
        return pb.PromoteRolloutResponse(rollout=await self._after(call, answer))

    async def RollBackRollout(
        self, request: pb.RollBackRolloutRequest, context: Context
    ) -> pb.RollBackRolloutResponse:
        call = converters.to_call(request)
        answer = await self._rollouts.roll_back(call, request.rollout_id, request.reason)
        return pb.RollBackRolloutResponse(rollout=await self._after(call, answer))

    async def PauseRollout(
        self, request: pb.PauseRolloutRequest, context: Context
    ) -> pb.PauseRolloutResponse:
        call = converters.to_call(request)
        answer = await self._rollouts.pause(call, request.rollout_id)
        return pb.PauseRolloutResponse(rollout=await self._after(call, answer))

    async def ResumeRollout(
        self, request: pb.ResumeRolloutRequest, context: Context
    ) -> pb.ResumeRolloutResponse:
        call = converters.to_call(request)
        answer = await self._rollouts.resume(call, request.rollout_id)
        return pb.ResumeRolloutResponse(rollout=await self._after(call, answer))

    async def ApproveRollout(
        self, request: pb.ApproveRolloutRequest, context: Context
    ) -> pb.ApproveRolloutResponse:
        call = converters.to_call(request)
        answer = await self._rollouts.approve(call, request.rollout_id, request.comment)
        return pb.ApproveRolloutResponse(rollout=await self._after(call, answer))

    async def RejectRollout(
        self, request: pb.RejectRolloutRequest, context: Context
    ) -> pb.RejectRolloutResponse:
        call = converters.to_call(request)
        answer = await self._rollouts.reject(call, request.rollout_id, request.comment)
        return pb.RejectRolloutResponse(rollout=await self._after(call, answer))

    async def _after(self, call: Call, answer: RolloutAnswer) -> rollout_pb2.Rollout:
        return await self._to_wire(await self._rollouts.get(call.workspace, answer.rollout_id))

    async def _to_wire(self, rollout: Rollout) -> rollout_pb2.Rollout:
        transitions = await self._rollouts.transitions(rollout)
        reason, route_version = await self._rollouts.at_present(rollout)
        return convert.from_rollout(rollout, transitions, reason, route_version)


def _order(call: Call, request: pb.CreateRolloutRequest) -> RolloutOrder:
    return RolloutOrder(
        model_id=request.model_id,
        environment=request.environment,
        spec=convert.to_spec(request.spec),
        version=request.version,
        deployment_id=request.deployment_id,
        is_vouched=request.requires_new_features,
        requester=converters.to_requester(call, request.on_behalf_of),
    )
