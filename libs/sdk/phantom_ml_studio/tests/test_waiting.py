"""Waiting for a deployment."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from phantom_ml_studio import Client, Deployments
from phantom_ml_studio.errors import TimedOut
from phantom_ml_studio.values import Deployment, Revision


class Told(Deployments):
    """Says what it was told instead of asking."""

    def __init__(self, phases: list[str]) -> None:
        super().__init__(Client("127.0.0.1:1", "token"))
        self._phases: Iterator[str] = iter(phases)
        self.phase = ""

    def get(self, deployment_id: str) -> Deployment:
        self.phase = next(self._phases, self.phase)
        stable = Revision(f"{deployment_id}.1", "1.0.0", "sha256:0", "ready", "")
        return Deployment(
            deployment_id,
            "production",
            "m",
            self.phase,
            "0 of 2 replicas",
            2,
            "user_id",
            stable,
            None,
            0.0,
            3,
            3,
        )


def test_a_deployment_whose_replicas_have_ended_is_waited_for() -> None:
    told = Told(["degraded", "degraded", "ready"])
    assert told.wait_ready("d").phase == "ready"
    with pytest.raises(TimedOut, match="0 of 2 replicas"):
        Told(["degraded"]).wait_ready("d", timeout_s=0)
