"""The deployer's and the registry's doors over real gRPC, played by a few lists."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from phantom.deployer.v1 import (
    deployer_service_pb2 as deployer,
)
from phantom.deployer.v1 import (
    deployment_pb2,
    rollout_pb2,
)
from phantom.deployer.v1 import (
    rollout_service_pb2 as rollouts,
)
from phantom_pipelines.tests.fakes import DIGEST
from phantom_platform.errors import NotFound, PhantomError, Refused
from phantom_platform.rpc.servicer import Servicer
from phantom_platform.testing.audit import MemoryAuditSink
from phantom_platform.testing.rpc import standing_in

ENDED = ("succeeded", "rolled_back", "failed", "superseded")


@dataclass
class FakeDeployer:
    """One environment. A new deployment is in `first_phase`; each look at a rollout goes one on along `course`.

    Request ids are answered again, as the deployer does.
    """

    first_phase: str = "ready"
    course: list[rollout_pb2.Rollout] = field(default_factory=list)
    deployments: dict[str, deployment_pb2.Deployment] = field(default_factory=dict)
    rollouts: dict[str, rollout_pb2.Rollout] = field(default_factory=dict)
    asked: dict[str, rollouts.CreateRolloutRequest] = field(default_factory=dict)
    deleted: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    looks: int = 0
    # Raised by the next calls of that name, one each.
    failing: dict[str, list[PhantomError]] = field(default_factory=dict)
    # Called before CreateRollout or Deploy is answered.
    before_answer: Callable[[], None] | None = None
    answers: dict[str, Any] = field(default_factory=dict)

    def serve(self, version: str, name: str = "fraud-staging", phase: str = "ready") -> None:
        """A deployment of that version is there."""
        self.deployments[name] = deployment_pb2.Deployment(
            deployment_id=name,
            environment="staging",
            model_id="fraud",
            phase=phase,
            stable=deployment_pb2.Revision(revision=f"{name}.1", model_version=version, digest=DIGEST),
        )

    def servicers(self) -> list[Servicer]:
        return [
            standing_in(
                "phantom.deployer.v1.DeployerService",
                audit=MemoryAuditSink(),
                ListEnvironments=self.list_environments,
                ListDeployments=self.list_deployments,
                GetDeployment=self.get_deployment,
                Deploy=self.deploy,
                DeleteDeployment=self.delete,
                RollbackCanary=self.drop,
            ),
            standing_in(
                "phantom.deployer.v1.RolloutService",
                audit=MemoryAuditSink(),
                CreateRollout=self.create_rollout,
                GetRollout=self.get_rollout,
                RollBackRollout=self.roll_back,
            ),
        ]

    async def list_environments(
        self, request: deployer.ListEnvironmentsRequest, context: Any
    ) -> deployer.ListEnvironmentsResponse:
        return deployer.ListEnvironmentsResponse(environments=[deployment_pb2.Environment(name="staging")])

    async def list_deployments(
        self, request: deployer.ListDeploymentsRequest, context: Any
    ) -> deployer.ListDeploymentsResponse:
        self._fail("ListDeployments")
        return deployer.ListDeploymentsResponse(deployments=self.deployments.values())

    async def get_deployment(
        self, request: deployer.GetDeploymentRequest, context: Any
    ) -> deployer.GetDeploymentResponse:
        self._fail("GetDeployment")
        if request.deployment_id not in self.deployments:
            raise NotFound(code="deployment_not_found")
        return deployer.GetDeploymentResponse(deployment=self.deployments[request.deployment_id])

    async def deploy(self, request: deployer.DeployRequest, context: Any) -> deployer.DeployResponse:
        self._fail("Deploy")
        if request.request_id not in self.answers:
            if self.before_answer is not None:
                self.before_answer()
            assert request.on_behalf_of == "ada"
            name = request.deployment_id or "fraud-staging"
            if name in self.deployments:
                revision = f"{name}.2"
                self.deployments[name].candidate.CopyFrom(
                    deployment_pb2.Revision(revision=revision, model_version=request.version)
                )
            else:
                revision = f"{name}.1"
                self.serve(request.version, name, self.first_phase)
            self.answers[request.request_id] = name, revision
        name, revision = self.answers[request.request_id]
        return deployer.DeployResponse(deployment=self.deployments[name], revision=revision)

    async def delete(
        self, request: deployer.DeleteDeploymentRequest, context: Any
    ) -> deployer.DeleteDeploymentResponse:
        self.deleted.append(request.deployment_id)
        return deployer.DeleteDeploymentResponse(deployment=self.deployments.pop(request.deployment_id))

    async def drop(
        self, request: deployer.RollbackCanaryRequest, context: Any
    ) -> deployer.RollbackCanaryResponse:
        self.dropped.append(request.deployment_id)
        assert request.remove
        return deployer.RollbackCanaryResponse()

    async def create_rollout(
        self, request: rollouts.CreateRolloutRequest, context: Any
    ) -> rollouts.CreateRolloutResponse:
        self._fail("CreateRollout")
        if request.request_id not in self.answers:
            if self.before_answer is not None:
                self.before_answer()
            made = rollout_pb2.Rollout(
                rollout_id=f"r{len(self.rollouts)}", deployment_id=request.deployment_id, state="pending"
            )
            self.rollouts[made.rollout_id] = made
            self.asked[made.rollout_id] = request
            self.answers[request.request_id] = made.rollout_id
        return rollouts.CreateRolloutResponse(rollout=self.rollouts[self.answers[request.request_id]])

    async def get_rollout(
        self, request: rollouts.GetRolloutRequest, context: Any
    ) -> rollouts.GetRolloutResponse:
        self._fail("GetRollout")
        now = self.rollouts[request.rollout_id]
        if now.state not in ENDED and self.course:
            now.MergeFrom(self.course.pop(0))
        self.looks += 1
        return rollouts.GetRolloutResponse(rollout=now)

    async def roll_back(
        self, request: rollouts.RollBackRolloutRequest, context: Any
    ) -> rollouts.RollBackRolloutResponse:
        now = self.rollouts[request.rollout_id]
        if now.state in ENDED:
            raise Refused(f"rollout {now.rollout_id} is {now.state} already", code="rollout_ended")
        now.state, now.reason = "rolled_back", request.reason
        return rollouts.RollBackRolloutResponse(rollout=now)

    def _fail(self, method: str) -> None:
        if self.failing.get(method):
            raise self.failing[method].pop(0)


def at(state: str, percentage: float = 0.0, reason: str = "", **fields: Any) -> rollout_pb2.Rollout:
    """One look at a rollout; a transition to its state is what is new."""
    numbers = {"pending": 0, "progressing": 1, "paused": 2, "rolling_back": 3}
    step = rollout_pb2.Transition(
        number=numbers.get(state, 9),
        from_state="pending",
        to_state=state,
        reason=reason,
        percentage=percentage,
    )
    return rollout_pb2.Rollout(
        state=state, current_percentage=percentage, reason=reason, transitions=[step], **fields
    )
