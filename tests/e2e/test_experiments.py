"""Experiments, from records that the test publishes as the experiment service will."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
import pytest

from harness import oip
from harness.kafka import upstream
from harness.waiting import eventually
from phantom_contracts import topics
from phantom_contracts.events.deployer import BucketRange
from phantom_contracts.events.experiment import ExperimentsRecord, Gate, RunningExperiment
from phantom_ml_studio.errors import PhantomError
from phantom_statistics import assignment

if TYPE_CHECKING:
    from conftest import Studio
    from harness.people import People
    from harness.stack import Stack

UNITS = [f"visitor-{n}" for n in range(120)]
HALF = (BucketRange(start=0, end=5000, arm="treatment"),)


def served(door: oip.Door, endpoint: str) -> dict[str, dict[str, str]]:
    """Unit → what its answer says of itself."""
    columns = {"amount": [0.2], "hour": [0.5]}
    # The experiment's own hash field; the endpoint's, user_id, says something else.
    requests = [oip.request(endpoint, columns, id=unit, user_id="one", visitor=unit) for unit in UNITS]
    found = {}
    for answer in door.stream(requests):
        assert answer.error_message == ""
        told = answer.infer_response.parameters
        found[answer.infer_response.id] = {name: value.string_param for name, value in told.items()}
    return found


async def test_an_experiment_decides_by_its_gate_its_salt_and_its_forced_units_until_it_is_gone(
    stack: Stack, studio: Studio, people: People, door: oip.Door, run_id: str
) -> None:
    name = f"experiment-{run_id}"
    studio.serve_boosters(name)
    made = studio.add_candidate(name)
    control, treatment = f"{made.id}.1", f"{made.id}.2"
    experiment = RunningExperiment(
        id="colour",
        version=3,
        gate=Gate(salt=f"gate-{run_id}", start=0, end=6000),
        salt=f"arm-{run_id}",
        hash_field="visitor",
        forced={UNITS[0]: "treatment", UNITS[1]: "control"},
        allocations=HALF,
        arms={"control": control, "treatment": treatment},
    )
    key = f"default/{made.id}"
    record = ExperimentsRecord(endpoint=made.id, version=1, experiments=(experiment,))
    async with upstream(stack.kafka) as other:
        await other.publish(topics.EXPERIMENTS, key, record, version=1)
        eventually(
            lambda: any("phantom_experiment_version" in a for a in served(door, made.id).values()),
            "the experiment",
        )
        found = served(door, made.id)
        for unit in UNITS[2:]:
            expected = expected_revision(experiment, unit, control)
            assert (unit, found[unit]["phantom_revision"]) == (unit, expected)
        assert found[UNITS[0]]["phantom_revision"] == treatment
        assert found[UNITS[1]]["phantom_revision"] == control
        inside = [u for u in UNITS[2:] if assignment.bucket(experiment.gate.salt, u) < 6000]
        assert all(found[unit]["phantom_experiment_version"] == "3" for unit in inside)
        assert {found[unit]["phantom_variant"] for unit in inside} >= {"control", "treatment"}
        outside = [u for u in UNITS[2:] if u not in inside]
        assert outside
        assert not any("phantom_experiment_version" in found[unit] for unit in outside)

        # A pin and a permitted override come first; a stranger's override is refused.
        message = oip.request(made.id, {"amount": [0.2], "hour": [0.5]}, version="1.0.0", visitor=UNITS[0])
        assert door.infer(message).headers["phantom-revision"] == control
        override(stack, people, door, made.id, control)

        await other.publish(topics.EXPERIMENTS, key, None, version=2)
        eventually(
            lambda: not any("phantom_experiment_version" in a for a in served(door, made.id).values()),
            "the end of the experiment",
        )
    studio.deployments.rollback_canary(made.id, remove=True)
    studio.deployments.wait_withdrawn(made.id)
    with pytest.raises(PhantomError):
        studio.deployments.set_canary_weight(made.id, 10)
    studio.deployments.delete(made.id)


def expected_revision(experiment: RunningExperiment, unit: str, control: str) -> str:
    """Recomputed offline."""
    gate = assignment.bucket(experiment.gate.salt, unit)
    if not experiment.gate.start <= gate < experiment.gate.end:
        return control
    allocations = [assignment.Allocation(a.start, a.end, a.arm) for a in experiment.allocations]
    return experiment.arms[assignment.arm_of(allocations, assignment.bucket(experiment.salt, unit))]


def override(stack: Stack, people: People, door: oip.Door, endpoint: str, revision: str) -> None:
    from phantom_ml_studio.client import obtain_token

    message = oip.request(endpoint, {"amount": [0.2], "hour": [0.5]}, visitor=UNITS[0])
    metadata = {"phantom-override-revision": revision}
    for person, status, code in (
        (None, "UNAUTHENTICATED", "token_missing"),
        (people.engineer, "PERMISSION_DENIED", ""),
    ):
        with pytest.raises(grpc.RpcError) as refused:
            door.infer(message, metadata | (bearer(stack, person) if person else {}))
        found = oip.failure(refused.value)
        assert found.status == status, found
        assert code in found.code
    permitted = metadata | {
        "authorization": f"Bearer {obtain_token('admin', people.admin.password, stack.control).value}"
    }
    assert door.infer(message, permitted).headers["phantom-revision"] == revision


def bearer(stack: Stack, person: object) -> dict[str, str]:
    from phantom_ml_studio.client import obtain_token

    token = obtain_token(person.name, person.password, stack.control)  # type: ignore[attr-defined]
    return {"authorization": f"Bearer {token.value}"}
