"""`CanaryDeployment`: a version gets a growing share of the traffic, and is rolled back by itself where it is worse."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from phantom_ml_studio.client import Client
from phantom_ml_studio.rollout_values import Rollout
from phantom_ml_studio.rollouts import Rollouts


class CanaryDeployment:
    """Canaries that judge themselves. Raises the errors of `phantom_ml_studio.errors`."""

    def __init__(self, client: Client) -> None:
        self._rollouts = Rollouts(client)

    def create_deployment(
        self,
        model_id: str,
        version: str,
        environment: str,
        canary_strategy: Mapping[str, Any],
        *,
        deployment_id: str = "",
        requires_new_features: bool = False,
        request_id: str | None = None,
    ) -> Rollout:
        """Start a canary on a deployment that serves another version; returns at once, `.id` is for the other calls.

        `canary_strategy`: initial_percentage, target_percentage (100), increment_percentage,
        increment_interval_minutes (fractions too), success_criteria {error_rate_threshold, latency_p95_threshold,
        minimum_requests, ...}, auto_rollback {enabled, failure_threshold, rollback_percentage}, and what README.md
        lists. Errors: Invalid `invalid_rollout`, naming each wrong key; NotFound; Refused `rollout_live`, ...
        """
        return self._rollouts.create(
            model_id,
            version,
            environment,
            "canary",
            canary_strategy,
            deployment_id=deployment_id,
            requires_new_features=requires_new_features,
            request_id=request_id,
        )

    def get_deployment_status(self, deployment_id: str) -> Rollout:
        """By the id that `create_deployment` returned, or by the deployment: its newest rollout.

        `.phase`, `.current_percentage`, `.verdict`, `.reason`, `.transitions`, ...; `.error_rate` and `.latency_p95`
        are NaN while there is too little to say. Errors: NotFound `rollout_not_found`.
        """
        return self._rollouts.get(deployment_id)

    def promote(
        self,
        deployment_id: str,
        target_percentage: float | None = None,
        *,
        ready_within_s: float = 60.0,
        request_id: str | None = None,
    ) -> Rollout:
        """Jump forward to a share and go on from there, or to the next step; see `Rollouts.promote`."""
        return self._rollouts.promote(
            deployment_id, target_percentage, ready_within_s=ready_within_s, request_id=request_id
        )

    def rollback(self, deployment_id: str, reason: str = "", request_id: str | None = None) -> Rollout:
        """Take the traffic from the candidate in one route version. Errors: Refused `rollout_ended`."""
        return self._rollouts.rollback(deployment_id, reason, request_id)

    def pause(self, deployment_id: str, request_id: str | None = None) -> Rollout:
        """Hold it at its share until `resume`."""
        return self._rollouts.pause(deployment_id, request_id)

    def resume(self, deployment_id: str, request_id: str | None = None) -> Rollout:
        """Go on from a pause; the step's clock begins anew."""
        return self._rollouts.resume(deployment_id, request_id)

    def approve(
        self,
        deployment_id: str,
        comment: str = "",
        *,
        ready_within_s: float = 60.0,
        request_id: str | None = None,
    ) -> Rollout:
        """Let it begin; never by who asked for it. Waits for the candidate: see `Rollouts.approve`."""
        return self._rollouts.approve(
            deployment_id, comment, ready_within_s=ready_within_s, request_id=request_id
        )

    def reject(
        self,
        deployment_id: str,
        comment: str = "",
        *,
        ready_within_s: float = 60.0,
        request_id: str | None = None,
    ) -> Rollout:
        """End it as failed. Waits as `approve`."""
        return self._rollouts.reject(
            deployment_id, comment, ready_within_s=ready_within_s, request_id=request_id
        )

    def wait(
        self,
        deployment_id: str,
        timeout_s: float | None = None,
        on_change: Callable[[Rollout], object] | None = None,
    ) -> Rollout:
        """Wait until it has ended, well or badly (`phase` says). Errors: TimedOut `rollout_not_ended`."""
        return self._rollouts.wait(deployment_id, timeout_s, on_change)
