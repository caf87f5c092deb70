"""The use case of replays: past requests of the endpoint through the candidate, before it gets any live one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from phantom_deployer.domain.deployment import ModelVersion
from phantom_deployer.domain.rollouts.model import ReplayReport, Rollout
from phantom_deployer.domain.rollouts.spec import ReplayPlan
from phantom_deployer.domain.values import RolloutKey
from phantom_deployer.service.piloting import Piloting
from phantom_deployer.service.ports import Reads
from phantom_platform.errors import Invalid, Refused, Unavailable


@dataclass(frozen=True, slots=True)
class Replay:
    """The newest requests of the endpoint, which outcomes may name by its aliases too, through one replica."""

    workspace: str
    endpoint: str
    aliases: frozenset[str]
    plan: ReplayPlan
    model: ModelVersion
    address: str


class Replayer(Protocol):
    """Reads past requests, runs them, and judges what came out by the plan's limits."""

    async def run(self, replay: Replay) -> ReplayReport:
        """Raises Refused, or Invalid, where they cannot be compared; Unavailable where it may work later."""
        ...


class Replaying:
    """A replay that did not end is begun anew; its report is kept with the rollout, whose next look judges it."""

    def __init__(self, reads: Reads, piloting: Piloting, replayer: Replayer) -> None:
        self._reads = reads
        self._piloting = piloting
        self._replayer = replayer

    async def waiting(self) -> list[Rollout]:
        """Rollouts that wait for their replay."""
        return await self._reads.replays_waiting()

    async def run(self, rollout: Rollout) -> ReplayReport:
        """Reads and changes nothing but the report. Raises Unavailable where it has to be begun anew."""
        replay = await self._replay_of(rollout)
        try:
            report = await self._replayer.run(replay)
        except (Refused, Invalid) as error:
            report = failed(f"past requests cannot be replayed through it: {error}")
        await self.keep(rollout, report)
        return report

    async def keep(self, rollout: Rollout, report: ReplayReport) -> None:
        key = RolloutKey(rollout.workspace, rollout.deployment_id, rollout.id)
        await self._piloting.replayed(key, report)

    async def _replay_of(self, rollout: Rollout) -> Replay:
        deployment = await self._reads.deployment(rollout.workspace, rollout.deployment_id)
        candidate = deployment.revision(rollout.candidate) if deployment else None
        serving = deployment.serving(rollout.candidate) if deployment else ()
        if deployment is None or candidate is None or not serving or rollout.spec.replay is None:
            raise Unavailable(
                f"no replica of {rollout.candidate} serves just now", code="candidate_unavailable"
            )
        return Replay(
            workspace=rollout.workspace,
            endpoint=deployment.id,
            aliases=frozenset(deployment.aliases),
            plan=rollout.spec.replay,
            model=candidate.model,
            address=serving[0].address,
        )


def failed(reason: str) -> ReplayReport:
    """Of one that could not be run."""
    return ReplayReport("fail", reason)
