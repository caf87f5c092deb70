"""Every call that changes something leaves a record on the audit topic, and so does one that was refused."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from harness import models
from harness.kafka import wait_for
from harness.people import Person, new_person
from harness.waiting import eventually
from phantom.deployer.v1 import deployer_service_pb2 as deployer
from phantom.deployer.v1 import rollout_service_pb2 as rollouts
from phantom.governance.v1 import governance_service_pb2 as governance
from phantom.governance.v1 import governance_service_pb2_grpc as governance_grpc
from phantom.monitor.v1 import monitor_service_pb2 as monitor
from phantom.options.v1 import options_pb2
from phantom.pipelines.v1 import pipeline_service_pb2 as pipelines
from phantom.platform.v1 import dead_letter_service_pb2 as dead_letters
from phantom.registry.v1 import registry_service_pb2 as registry
from phantom_contracts import topics
from phantom_ml_studio import (
    DeadLetters,
    DeploymentPipeline,
    Deployments,
    Environments,
    ModelRegistry,
    PhantomError,
    Rollouts,
    TestSuites,
    Users,
)
from phantom_ml_studio.errors import Forbidden
from phantom_ml_studio.tracing import trace

if TYPE_CHECKING:
    from conftest import Studio
    from harness.people import People
    from harness.stack import Stack
    from phantom_ml_studio import Client

CONTROL_API = (registry, deployer, rollouts, governance, monitor, pipelines, dead_letters)
# Public calls have no caller; services make them.
UNATTRIBUTED = {"/phantom.governance.v1.GovernanceService/IssueServiceToken"}


def mutating_methods() -> set[str]:
    """Of every RPC whose proto says so."""
    found = set()
    for module in CONTROL_API:
        for service in module.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                if method.GetOptions().Extensions[options_pb2.access].mutates:
                    found.add(f"/{service.full_name}/{method.name}")
    return found - UNATTRIBUTED


def change_everything(person: Person, engineer: Client, studio: Studio, name: str) -> None:
    """One successful call of each mutating RPC but the replay, which has nothing to replay."""
    models_of, deployments = ModelRegistry(person.client), Deployments(person.client)
    made = models_of.register_model(
        name, models.xgboost_file(studio.file(f"{name}-1.json"), 1), schema=models.SCHEMA, stage="staging"
    )
    models_of.create_version(name, "1.1.0", models.xgboost_file(studio.file(f"{name}-2.json"), 2))
    models_of.set_tags(name, ["audited"])
    models_of.register_dataset(name, "1", digest="sha256:" + "0" * 64)
    models_of.create_lineage(name, {"dependencies": {"python": "3.11"}}, "1.0.0")
    # Nobody grants what they asked for or made.
    studio.registry.create_version(name, "1.2.0", models.xgboost_file(studio.file(f"{name}-3.json"), 3))
    asked = studio.registry.promote_model(
        name, "1.2.0", "production", "staging", approval_required=True, reviewer=person.name
    )
    models_of.grant_approval(asked.id)
    models_of.promote_model(name, "1.1.0", "archived")
    Environments(person.client).create(name)
    deployed = deployments.deploy(name, "1.0.0", name)
    deployments.wait_ready(deployed.id)
    deployments.deploy(name, "1.1.0", name)
    deployments.wait_ready(deployed.id)
    deployments.set_canary_weight(deployed.id, 10)
    deployments.rollback_canary(deployed.id)
    deployments.set_canary_weight(deployed.id, 20)
    deployments.complete_rollout(deployed.id)
    roll_out(person, engineer, deployed.id, name)
    run_pipelines(person, engineer, name)
    deployments.scale(deployed.id, 2)
    deployments.delete(deployed.id)
    users = Users(person.client)
    users.create(f"user-of-{name}", "long enough a password")
    users.change_password(person.password, "another good password")
    token = governance.IssueArtifactTokenRequest(digests=[made.version.digest], subject="replica")
    person.client.call(governance_grpc.GovernanceServiceStub(person.client.channel).IssueArtifactToken, token)
    with pytest.raises(PhantomError):
        DeadLetters(person.client).replay("monitor", "01890000-0000-7000-8000-000000000000")


def roll_out(person: Person, engineer: Client, endpoint: str, name: str) -> None:
    """Each RPC on rollouts: of the engineer's those that decide, since nobody decides on their own."""
    ours, theirs = Rollouts(person.client), Rollouts(engineer)
    asking = {"approval_required": True}
    for decide in (ours.reject, ours.approve):
        asked = theirs.create(name, "1.0.0", name, "blue_green", asking, deployment_id=endpoint)
        eventually(lambda id=asked.id: ours.get(id).state == "waiting_for_approval", "a question", 60)  # type: ignore[misc]
        decide(asked.id)
        if decide == ours.approve:
            eventually(lambda id=asked.id: ours.get(id).state == "promoting", "the switch", 60)  # type: ignore[misc]
            ours.rollback(asked.id)
        ours.wait(asked.id, 60)
    steps = {"initial_percentage": 10, "increment_percentage": 10, "increment_interval_minutes": 5}
    canary = ours.create(name, "1.0.0", name, "canary", steps, deployment_id=endpoint)
    eventually(lambda: ours.get(canary.id).state == "progressing", "the first step", 60)
    ours.pause(canary.id)
    ours.resume(canary.id)
    ours.promote(canary.id, 50)
    ours.rollback(canary.id)
    ours.wait(canary.id, 60)


def run_pipelines(person: Person, engineer: Client, name: str) -> None:
    """Each RPC on pipelines; the run of a suite has none to run."""
    ours, theirs = DeploymentPipeline(person.client), DeploymentPipeline(engineer)
    made = ours.create(name, "one question")
    ours.add_stage(made.id, {"name": "sign-off", "type": "approval", "config": {}})
    asked = theirs.execute(made.id, name, "1.0.0")
    eventually(lambda: ours.get_execution_status(asked.id).phase == "waiting_for_approval", "a question")
    ours.approve(asked.id)
    mine = ours.execute(made.id, name, "1.0.0")
    ours.cancel(mine.id)
    suites = TestSuites(person.client)
    suites.create(f"{name}-suite", name)
    with pytest.raises(PhantomError):
        suites.run("no-such-suite", name)


async def test_every_mutating_call_leaves_an_audit_record_with_its_trace(
    stack: Stack, people: People, studio: Studio, run_id: str
) -> None:
    person = new_person(stack, people.admin, f"auditor-{run_id}", ("*",))
    with trace() as trace_id:
        change_everything(person, people.engineer.client, studio, f"audited-{run_id}")
    expected = mutating_methods()
    assert len(expected) >= 32

    def by(records: list[Any], principal: str) -> list[dict[str, Any]]:
        return [json.loads(r.value) for r in records if r.key == principal.encode()]

    def are_all_there(records: list[Any]) -> bool:
        return {each["action"] for each in by(records, person.name)} >= expected

    records = by(await wait_for(stack.kafka, topics.AUDIT, are_all_there), person.name)
    outcomes = {each["action"]: (each["outcome"], each["error_code"]) for each in records}
    replay = "/phantom.platform.v1.DeadLetterService/ReplayDeadLetter"
    assert outcomes.pop(replay) == ("refused", "dead_letter_not_found")
    tests = "/phantom.pipelines.v1.PipelineService/RunTests"
    assert outcomes.pop(tests) == ("refused", "test_suite_not_found")
    assert set(outcomes.values()) == {("ok", "")}
    assert {each["trace_id"] for each in records} == {trace_id}
    promoted = next(each for each in records if each["action"].endswith("/PromoteModel"))
    assert f"audited-{run_id}" in promoted["resource"]
    assert all(each["workspace"] == "default" for each in records)
    assert all(
        each["resource"]
        for each in records
        if each["action"] not in (replay,) and "Token" not in each["action"]
    )
    person.client.close()


async def test_a_refused_call_leaves_a_record_with_what_it_lacked(
    stack: Stack, people: People, run_id: str
) -> None:
    person = new_person(stack, people.admin, f"meddler-{run_id}", ("models:read",))
    with pytest.raises(Forbidden):
        ModelRegistry(person.client).set_tags("anything", ["mine"])

    def refusals(records: list[Any]) -> list[dict[str, Any]]:
        return [json.loads(r.value) for r in records if r.key == person.name.encode()]

    (record,) = refusals(await wait_for(stack.kafka, topics.AUDIT, lambda found: bool(refusals(found))))
    assert record["action"] == "/phantom.registry.v1.RegistryService/SetTags"
    assert (record["outcome"], record["error_code"]) == ("refused", "permission_missing")
    person.client.close()
