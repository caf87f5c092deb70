"""What callers may do to a deployment, and when not.

Each function returns the deployment as it is afterwards and what happened; or raises a named refusal.
`used` maps revisions of running experiments to the experiment's id: those may not be taken away. While experiments
are not known (None), nothing is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

from phantom_contracts.schema import endpoint_schema
from phantom_deployer.domain import facts, schemas
from phantom_deployer.domain.deployment import (
    CANDIDATE,
    Deployment,
    ModelVersion,
    Revision,
    Shadow,
    new_salt,
)
from phantom_deployer.domain.facts import Fact
from phantom_platform.errors import Invalid, Refused, Unavailable, Violation
from phantom_statistics.assignment import BUCKETS, reallocate

Outcome = tuple[Deployment, tuple[Fact, ...]]
Used = Mapping[str, str] | None


def create(
    *,
    workspace: str,
    deployment_id: str,
    environment: str,
    model: ModelVersion,
    replicas: int,
    hash_field: str,
    aliases: tuple[str, ...],
    now: datetime,
    created_by: str,
    entropy: str,
    buried: Deployment | None = None,
) -> Outcome:
    """A new deployment. Where one of that name was deleted (`buried`), its numbers go on."""
    number = buried.next_number if buried else 1
    revision = Revision(f"{deployment_id}.{number}", number, model)
    deployment = Deployment(
        workspace=workspace,
        id=deployment_id,
        environment=environment,
        model_id=model.model_id,
        replicas=replicas,
        hash_field=hash_field,
        created_at=now,
        created_by=created_by,
        salt=new_salt(deployment_id, number, entropy),
        stable=revision.id,
        next_number=number + 1,
        aliases=aliases,
        route_version=buried.route_version if buried else 0,
        version=buried.version if buried else 0,
        revisions=(revision,),
    )
    return deployment, (facts.Created(model.version, replicas), facts.Added(revision.id))


def add_revision(
    deployment: Deployment,
    model: ModelVersion,
    *,
    bp: int,
    vouched: bool,
    entropy: str,
    used: Used,
) -> Outcome:
    """The version becomes the candidate; the stable revision where that one could not be started."""
    _check_not_deleting(deployment)
    stable = deployment.stable_revision
    if stable is None or stable.phase == "failed":
        return _replace_stable(deployment, model, bp, entropy)
    live = deployment.candidate_revision
    if live is not None and live.phase in ("pending", "ready"):
        raise Refused(
            f"{live.id} (version {live.model.version}) is the live candidate of {deployment.id}; promote it, roll it "
            "back, or wait, before deploying another version",
            code="candidate_live",
            candidate=live.id,
        )
    _check_no_standby(deployment)
    endpoint = deployment.schema or endpoint_schema([stable.model.model_schema])
    schemas.check_features(model.model_schema, endpoint, vouched=vouched)
    if live is not None:
        deployment = _withdraw(deployment, live, used, f"replaced by version {model.version}")
    revision = _next_revision(deployment, model)
    note = schemas.differences(model.model_schema, stable.model.model_schema)
    revision = replace(revision, reason=note)
    deployment = replace(
        deployment.with_revision(revision),
        candidate=revision.id,
        next_number=revision.number + 1,
        allocations=(),
        pending_bp=bp,
        salt=new_salt(deployment.id, revision.number, entropy),
    )
    return deployment, (facts.Added(revision.id, note),)


def set_weight(deployment: Deployment, bp: int) -> Outcome:
    """The candidate's share, up or down. A rolled-back candidate that gets traffic again is ready again.

    One that kept a rest of its traffic when it was rolled back can only lose it: to rise it needs a new rollout.
    """
    candidate = _candidate(deployment)
    _check_has_been_ready(candidate)
    _check_no_shadow(deployment, candidate)
    previous = deployment.candidate_bp
    if candidate.phase == "rolled_back" and 0 < previous < bp:
        raise Refused(
            f"{candidate.id} was rolled back and keeps {previous / 100:g} %; start a new rollout to raise it",
            code="candidate_rolled_back",
            candidate=candidate.id,
        )
    allocations = reallocate(deployment.allocations, {CANDIDATE: bp} if bp else {})
    if bp > previous and candidate.phase == "rolled_back":
        deployment = deployment.with_revision(replace(candidate, phase="ready", target=None, reason=""))
    deployment = replace(deployment, allocations=allocations, pending_bp=0)
    if previous == bp:
        return deployment, ()
    return deployment, (facts.WeightSet(candidate.id, bp, previous),)


def complete(deployment: Deployment, used: Used, *, keep: bool = False) -> Outcome:
    """The candidate becomes the stable revision; the old one is withdrawn afterwards.

    With `keep` the old one goes to standby instead: it has its replicas, can be pinned and switched back to.
    """
    candidate = _candidate(deployment)
    _check_has_been_ready(candidate)
    _check_no_shadow(deployment, candidate)
    if candidate.phase == "rolled_back":
        raise Refused(
            f"{candidate.id} was rolled back; give it traffic again with SetCanaryWeight before completing",
            code="candidate_rolled_back",
            candidate=candidate.id,
        )
    previous, old = deployment.stable, deployment.stable_revision
    reason = f"replaced by {candidate.id}"
    if old is not None and keep and old.was_ready:
        deployment = deployment.with_revision(replace(old, phase="standby", target=None, reason=reason))
    elif old is not None:
        deployment = _withdraw(deployment, old, used, reason)
    deployment = deployment.with_revision(replace(candidate, target=None))
    deployment = replace(deployment, stable=candidate.id, candidate="", allocations=(), pending_bp=0)
    return deployment, (facts.Completed(candidate.id, previous),)


def switch_back(deployment: Deployment, reason: str) -> Outcome:
    """The standby is the stable revision again; the one that had replaced it becomes a rolled-back candidate."""
    _check_not_deleting(deployment)
    standby, bad = deployment.standby_revision, deployment.stable_revision
    if standby is None or bad is None:
        raise Refused(
            f"{deployment.id} keeps no earlier revision warm to switch back to; deploy the earlier version again",
            code="no_standby",
        )
    deployment = deployment.with_revision(replace(standby, phase="ready", reason=""))
    deployment = deployment.with_revision(replace(bad, phase="rolled_back", reason=reason or "switched back"))
    deployment = replace(deployment, stable=standby.id, candidate=bad.id, allocations=(), pending_bp=0)
    return deployment, (facts.SwitchedBack(standby.id, bad.id, reason or "asked for"),)


def release_standby(deployment: Deployment, used: Used) -> Outcome:
    """The standby, if there is one, is withdrawn."""
    standby = deployment.standby_revision
    if standby is None or deployment.is_deleting:
        return deployment, ()
    return _withdraw(deployment, standby, used, f"replaced by {deployment.stable}"), ()


def roll_back(
    deployment: Deployment, *, remove: bool, reason: str, used: Used, percent: float = 0.0
) -> Outcome:
    """No traffic to the candidate, or `percent` of it at most; with `remove` it is withdrawn.

    A stable revision that was being rolled out is to have all its replicas again.
    """
    candidate = _candidate(deployment)
    happened: tuple[Fact, ...] = ()
    if candidate.phase != "rolled_back":
        happened = (facts.RolledBack(candidate.id, reason or "asked for"),)
    goes = remove or candidate.phase == "failed" or not candidate.was_ready
    rest = 0 if goes else min(basis_points(percent), deployment.candidate_bp)
    allocations = reallocate(deployment.allocations, {CANDIDATE: rest} if rest else {})
    deployment = _whole_stable(replace(deployment, allocations=allocations, pending_bp=0, shadow=None))
    if goes:
        deployment = _withdraw(deployment, candidate, used, reason or "rolled back")
        return replace(deployment, candidate=""), happened
    rolled_back = replace(candidate, phase="rolled_back", reason=reason or "rolled back")
    return deployment.with_revision(rolled_back), happened


def set_target(deployment: Deployment, revision_id: str, number: int | None) -> Outcome:
    """How many replicas that live revision is to have, 0 to all of them; None: all, and as the deployment is scaled."""
    _check_not_deleting(deployment)
    revision = deployment.revision(revision_id)
    if revision is None or not revision.is_live:
        raise Refused(f"{revision_id} is no live revision of {deployment.id}", code="revision_not_live")
    if number is not None and not 0 <= number <= deployment.replicas:
        problem = f"{number} is not from 0 to {deployment.replicas}, the replicas of {deployment.id}"
        raise Invalid(code="target_out_of_range", violations=[Violation("target", problem)])
    return deployment.with_revision(replace(revision, target=number)), ()


def set_shadow(deployment: Deployment, revision_id: str, bp: int, salt: str) -> Outcome:
    """The candidate, which has no share of its own, gets copies of that many basis points of the units."""
    candidate = _candidate(deployment)
    if candidate.id != revision_id:
        raise Refused(f"{revision_id} is not the candidate of {deployment.id}", code="revision_not_live")
    _check_has_been_ready(candidate)
    if deployment.candidate_bp or deployment.pending_bp or candidate.phase == "rolled_back":
        raise Refused(
            f"{candidate.id} has or had traffic of its own; a shadow answers copies only",
            code="candidate_has_traffic",
            candidate=candidate.id,
        )
    if not 0 < bp <= BUCKETS:
        problem = f"{bp} basis points are not a share from 0.01 to 100 percent"
        raise Invalid(code="percent_not_representable", violations=[Violation("percentage", problem)])
    before, shadow = deployment.shadow, Shadow(candidate.id, salt, bp)
    if before == shadow:
        return deployment, ()
    happened = facts.ShadowSet(candidate.id, bp, before.bp if before else 0)
    return replace(deployment, shadow=shadow), (happened,)


def clear_shadow(deployment: Deployment) -> Outcome:
    """No more copies."""
    before = deployment.shadow
    if before is None:
        return deployment, ()
    return replace(deployment, shadow=None), (facts.ShadowSet(before.revision, 0, before.bp),)


def scale(deployment: Deployment, replicas: int) -> Outcome:
    """Another number of replicas for every live revision; a target of its own that was higher comes down to it."""
    _check_not_deleting(deployment)
    for each in deployment.revisions:
        if each.target is not None and each.target > replicas:
            deployment = deployment.with_revision(replace(each, target=replicas))
    return replace(deployment, replicas=replicas), ()


def delete(deployment: Deployment, used: Used) -> Outcome:
    """The route goes at once, the replicas once no gateway uses it."""
    if deployment.is_deleting:
        return deployment, ()
    for each in deployment.revisions:
        if each.phase != "withdrawn":
            deployment = _withdraw(deployment, each, used, "the deployment is deleted")
    return replace(deployment, is_deleting=True, allocations=(), pending_bp=0, shadow=None), ()


def basis_points(percent: float) -> int:
    """Percent to basis points, one a bucket. Raises Invalid on what is finer than 0.01 %."""
    bp = round(percent * 100)
    if abs(percent * 100 - bp) > 1e-6 or not 0 <= bp <= BUCKETS:
        problem = f"{percent} is not a share in steps of 0.01 from 0 to 100 percent"
        raise Invalid(code="percent_not_representable", violations=[Violation("percent", problem)])
    return bp


def _candidate(deployment: Deployment) -> Revision:
    _check_not_deleting(deployment)
    candidate = deployment.candidate_revision
    if candidate is None:
        raise Refused(
            f"{deployment.id} has no candidate; deploy another version of {deployment.model_id} first",
            code="no_candidate",
        )
    return candidate


def _check_has_been_ready(candidate: Revision) -> None:
    if not candidate.was_ready:
        state = "could not be started" if candidate.phase == "failed" else "is not ready yet"
        raise Refused(
            f"{candidate.id} {state}{': ' if candidate.reason else ''}{candidate.reason}",
            code="candidate_not_ready",
            candidate=candidate.id,
        )


def _check_no_shadow(deployment: Deployment, candidate: Revision) -> None:
    if deployment.shadow is not None:
        raise Refused(
            f"{candidate.id} answers copies as a shadow; end that before it gets traffic of its own",
            code="candidate_is_shadow",
            candidate=candidate.id,
        )


def _check_no_standby(deployment: Deployment) -> None:
    standby = deployment.standby_revision
    if standby is not None:
        raise Refused(
            f"{standby.id} (version {standby.model.version}) stays warm until the rollout of {deployment.stable} has "
            "ended; wait, or end it, before deploying another version",
            code="standby_live",
            standby=standby.id,
        )


def _whole_stable(deployment: Deployment) -> Deployment:
    stable = deployment.stable_revision
    if stable is None or stable.target is None:
        return deployment
    return deployment.with_revision(replace(stable, target=None))


def _check_not_deleting(deployment: Deployment) -> None:
    if deployment.is_deleting:
        raise Refused(
            f"{deployment.id} is being deleted; wait until it is gone, then deploy it anew",
            code="deployment_deleting",
        )


def _withdraw(deployment: Deployment, revision: Revision, used: Used, reason: str) -> Deployment:
    if used is None and revision.was_ready:
        raise Unavailable(
            f"whether a running experiment uses {revision.id} is not known yet: Kafka has not been read to its end",
            code="experiments_unknown",
            revision=revision.id,
        )
    if used is not None and revision.id in used:
        raise Refused(
            f"{revision.id} is used by the running experiment {used[revision.id]}; stop or conclude it first",
            code="revision_in_experiment",
            revision=revision.id,
            experiment=used[revision.id],
        )
    return deployment.with_revision(replace(revision, phase="withdrawing", target=None, reason=reason))


def _next_revision(deployment: Deployment, model: ModelVersion) -> Revision:
    number = deployment.next_number
    return Revision(f"{deployment.id}.{number}", number, model)


def _replace_stable(deployment: Deployment, model: ModelVersion, bp: int, entropy: str) -> Outcome:
    if bp:
        raise Refused(
            f"{deployment.id} has no stable revision to compare a canary with; deploy without canary_percent",
            code="stable_not_ready",
        )
    failed = deployment.stable_revision
    if failed is not None:
        deployment = deployment.with_revision(replace(failed, phase="withdrawing"))
    revision = _next_revision(deployment, model)
    deployment = replace(
        deployment.with_revision(revision),
        stable=revision.id,
        next_number=revision.number + 1,
        salt=new_salt(deployment.id, revision.number, entropy),
    )
    return deployment, (facts.Added(revision.id, "the first revision could not be started"),)
