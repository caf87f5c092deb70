"""`Rollouts`: bring a version in behind an endpoint, judged on evidence, by any of the four strategies."""

from __future__ import annotations

import builtins
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from phantom.deployer.v1 import rollout_service_pb2 as rpc
from phantom.deployer.v1 import rollout_service_pb2_grpc as stubs
from phantom_ml_studio.client import Client, new_request_id
from phantom_ml_studio.errors import Refused
from phantom_ml_studio.rollout_spec import to_spec
from phantom_ml_studio.rollout_values import Rollout
from phantom_ml_studio.waiting import POLL_S, changes


class Rollouts:
    """Rollouts of every strategy. Raises the errors of `phantom_ml_studio.errors`.

    Wherever a rollout is asked for by its id, `get` also takes a deployment (or its alias): its newest rollout.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._stub = stubs.RolloutServiceStub(client.channel)

    def create(
        self,
        model_id: str,
        version: str = "",
        environment: str = "production",
        strategy: str = "canary",
        config: Mapping[str, Any] | None = None,
        *,
        deployment_id: str = "",
        requires_new_features: bool = False,
        request_id: str | None = None,
    ) -> Rollout:
        """Start bringing a version into a deployment that serves another one. Returns at once.

        `strategy` is canary, blue_green, rolling or shadow; the README lists the keys of `config`. Errors: Invalid
        `invalid_rollout` (naming each wrong key, before anything is sent); NotFound; Refused `rollout_live`,
        `experiment_running`, `stable_not_ready`, `new_features_required`.
        """
        request = rpc.CreateRolloutRequest(
            model_id=model_id,
            version=version,
            environment=environment,
            deployment_id=deployment_id,
            spec=to_spec(strategy, config or {}),
            requires_new_features=requires_new_features,
            request_id=new_request_id(request_id),
        )
        return Rollout.of(self._client.call(self._stub.CreateRollout, request).rollout)

    def get(self, rollout_id: str) -> Rollout:
        """Errors: NotFound `rollout_not_found`."""
        request = rpc.GetRolloutRequest(rollout_id=rollout_id)
        return Rollout.of(self._client.call(self._stub.GetRollout, request).rollout)

    def list(self, deployment_id: str = "", live_only: bool = False) -> builtins.list[Rollout]:
        """Newest first, of one deployment where named."""
        request = rpc.ListRolloutsRequest(deployment_id=deployment_id, live_only=live_only)
        pages = self._client.pages(self._stub.ListRollouts, request, "rollouts")
        return [Rollout.of(r) for r in pages]

    def watch(self, rollout_id: str, timeout_s: float | None = None) -> Iterator[Rollout]:
        """The rollout as it is, then at each change, until it has ended. Errors: TimedOut `rollout_not_ended`."""
        return changes(lambda: self.get(rollout_id), timeout_s, "rollout_not_ended")

    def wait(
        self,
        rollout_id: str,
        timeout_s: float | None = None,
        on_change: Callable[[Rollout], object] | None = None,
    ) -> Rollout:
        """Wait until it has ended, well or badly (`state` says); `on_change` is told each change.

        Errors: TimedOut `rollout_not_ended`; the rollout goes on all the same.
        """
        for rollout in self.watch(rollout_id, timeout_s):
            if on_change is not None:
                on_change(rollout)
            found = rollout
        return found

    def promote(
        self,
        rollout_id: str,
        target_percentage: float | None = None,
        *,
        ready_within_s: float = 60.0,
        request_id: str | None = None,
    ) -> Rollout:
        """Jump forward to a share, and go on from there by the increment; without one, to the next step.

        A candidate that is still starting is waited for. Errors: Refused `rollout_ended`, `backwards`,
        `candidate_not_ready` (not ready within that time, or waiting for an approval).
        """

        def ask() -> Rollout:
            request = rpc.PromoteRolloutRequest(
                rollout_id=rollout_id,
                target_percentage=target_percentage,
                request_id=new_request_id(request_id),
            )
            return Rollout.of(self._client.call(self._stub.PromoteRollout, request).rollout)

        return self._once_started(rollout_id, ask, "candidate_not_ready", ready_within_s)

    def rollback(self, rollout_id: str, reason: str = "", request_id: str | None = None) -> Rollout:
        """Take the traffic from the candidate in one route version. Errors: Refused `rollout_ended`."""
        request = rpc.RollBackRolloutRequest(
            rollout_id=rollout_id, reason=reason, request_id=new_request_id(request_id)
        )
        return Rollout.of(self._client.call(self._stub.RollBackRollout, request).rollout)

    def pause(self, rollout_id: str, request_id: str | None = None) -> Rollout:
        """Hold it at its share until `resume`. Errors: Refused `rollout_ended`."""
        request = rpc.PauseRolloutRequest(rollout_id=rollout_id, request_id=new_request_id(request_id))
        return Rollout.of(self._client.call(self._stub.PauseRollout, request).rollout)

    def resume(self, rollout_id: str, request_id: str | None = None) -> Rollout:
        """Go on from a pause; the step's clock begins anew. Errors: Refused `rollout_not_paused`."""
        request = rpc.ResumeRolloutRequest(rollout_id=rollout_id, request_id=new_request_id(request_id))
        return Rollout.of(self._client.call(self._stub.ResumeRollout, request).rollout)

    def approve(
        self,
        rollout_id: str,
        comment: str = "",
        *,
        ready_within_s: float = 60.0,
        request_id: str | None = None,
    ) -> Rollout:
        """Let it begin. A candidate that is still starting is waited for: nobody approves what may not even start.

        Errors: Refused `not_waiting_for_approval`, `already_approved`, `approval_expired`; Forbidden
        `not_an_approver`, `requester_cannot_approve`.
        """

        def ask() -> Rollout:
            request = rpc.ApproveRolloutRequest(
                rollout_id=rollout_id, comment=comment, request_id=new_request_id(request_id)
            )
            return Rollout.of(self._client.call(self._stub.ApproveRollout, request).rollout)

        return self._once_started(rollout_id, ask, "not_waiting_for_approval", ready_within_s)

    def reject(
        self,
        rollout_id: str,
        comment: str = "",
        *,
        ready_within_s: float = 60.0,
        request_id: str | None = None,
    ) -> Rollout:
        """End it as failed. Waits and errors: as `approve`."""

        def ask() -> Rollout:
            request = rpc.RejectRolloutRequest(
                rollout_id=rollout_id, comment=comment, request_id=new_request_id(request_id)
            )
            return Rollout.of(self._client.call(self._stub.RejectRollout, request).rollout)

        return self._once_started(rollout_id, ask, "not_waiting_for_approval", ready_within_s)

    def _once_started(
        self, rollout_id: str, ask: Callable[[], Rollout], too_early: str, within_s: float
    ) -> Rollout:
        """Asks again while it is refused with that code because the candidate is starting."""
        give_up = time.monotonic() + within_s
        while True:
            try:
                return ask()
            except Refused as error:
                if error.code != too_early or time.monotonic() > give_up:
                    raise
                now = self.get(rollout_id)
                will_be_possible = too_early == "candidate_not_ready" or now.spec.get(
                    "approval_required", False
                )
                if now.state != "pending" or not will_be_possible:
                    raise
                time.sleep(POLL_S)
