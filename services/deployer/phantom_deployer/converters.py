"""Wire to values and back."""

from __future__ import annotations

import base64
import binascii
import hashlib
from datetime import datetime
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from phantom.deployer.v1 import deployment_pb2 as pb
from phantom_deployer.domain.acknowledgement import Gateway
from phantom_deployer.domain.deployment import Environment, Revision
from phantom_deployer.domain.status import Look
from phantom_deployer.domain.values import Call
from phantom_platform.errors import Forbidden, Invalid, Violation
from phantom_platform.ids import check_principal
from phantom_platform.rpc import current_caller

DEFAULT_PAGE = 50
# Services that may act on behalf of somebody.
DELEGATES = frozenset({"pipelines"})


def to_call(request: Any) -> Call:
    """Who calls, and a fingerprint of the method and everything that was asked but the request id."""
    caller = current_caller()
    _refuse_nul(request)
    asked = type(request)()
    asked.CopyFrom(request)
    asked.ClearField("request_id")
    text = type(request).DESCRIPTOR.full_name.encode() + b"\0" + asked.SerializeToString(deterministic=True)
    fingerprint = hashlib.sha256(text).hexdigest()
    return Call(caller.workspace, caller.principal, request.request_id, fingerprint)


def to_requester(call: Call, on_behalf_of: str) -> str:
    """Whom a call is for, empty where it is the caller's own. Raises Forbidden `cannot_act_for_others`."""
    if on_behalf_of not in ("", call.principal) and call.principal not in DELEGATES:
        raise Forbidden(
            f"{call.principal} cannot act on behalf of {on_behalf_of}: only services can; leave it out",
            code="cannot_act_for_others",
        )
    return check_principal(on_behalf_of, "on_behalf_of") if on_behalf_of else ""


def _refuse_nul(request: Any) -> None:
    """Postgres keeps no NUL in texts."""
    for field, value in request.ListFields():
        if isinstance(value, str) and "\0" in value:
            raise Invalid(code="nul_in_text", violations=[Violation(field.name, "contains a NUL character")])


def workspace(request: Any) -> str:
    """The caller's, for a read."""
    _refuse_nul(request)
    return current_caller().workspace


def to_page(request: Any) -> tuple[str, int]:
    """(the last item of the page before, size)."""
    size = request.page_size or DEFAULT_PAGE
    if not request.page_token:
        return "", size
    try:
        return base64.urlsafe_b64decode(request.page_token.encode()).decode(), size
    except (binascii.Error, ValueError) as error:
        raise Invalid(
            code="bad_page_token", violations=[Violation("page_token", "is none that was given out here")]
        ) from error


def to_token(last: str) -> str:
    return base64.urlsafe_b64encode(last.encode()).decode()


def from_environment(environment: Environment) -> pb.Environment:
    return pb.Environment(
        name=environment.name,
        type=environment.type,
        created_at=to_timestamp(environment.created_at),
        created_by=environment.created_by,
    )


def from_deployment(look: Look, acknowledged: int) -> pb.Deployment:
    deployment = look.deployment
    overall = look.overall()
    stable, candidate = deployment.stable_revision, deployment.candidate_revision
    standby = deployment.standby_revision
    return pb.Deployment(
        deployment_id=deployment.id,
        environment=deployment.environment,
        model_id=deployment.model_id,
        phase=overall.phase,
        reason=overall.reason,
        replicas=deployment.replicas,
        hash_field=deployment.hash_field,
        stable=_from_revision(look, stable) if stable else None,
        candidate=_from_revision(look, candidate) if candidate else None,
        candidate_percent=deployment.candidate_bp / 100,
        route_version=deployment.route_version,
        aliases=deployment.aliases,
        acknowledged_route_version=acknowledged,
        created_at=to_timestamp(deployment.created_at),
        created_by=deployment.created_by,
        withdrawing=[_from_revision(look, r) for r in deployment.revisions if r.phase == "withdrawing"],
        standby=_from_revision(look, standby) if standby else None,
        shadow_percent=deployment.shadow.bp / 100 if deployment.shadow else 0.0,
    )


def _from_revision(look: Look, revision: Revision) -> pb.Revision:
    status = look.revision(revision)
    replicas = []
    for each in look.deployment.replicas_of(revision.id):
        its = look.replica(each)
        replicas.append(
            pb.ReplicaStatus(
                replica_id=each.id,
                address=each.address,
                phase=its.phase,
                reason=its.reason,
                pid=each.pid,
                restarts=each.restarts,
            )
        )
    return pb.Revision(
        revision=revision.id,
        model_version=revision.model.version,
        digest=revision.model.digest,
        phase=status.phase,
        reason=status.reason,
        replicas=replicas,
        wanted_replicas=look.deployment.wanted(revision) if revision.is_live else 0,
    )


def from_gateway(gateway: Gateway) -> pb.Gateway:
    return pb.Gateway(
        boot_id=gateway.boot_id,
        state="silent" if gateway.is_silent else "live",
        last_seen=to_timestamp(gateway.last_seen) if gateway.last_seen else None,
        applied={key: each.applied for key, each in gateway.progress.items()},
        drained={key: each.drained for key, each in gateway.progress.items()},
    )


def to_timestamp(moment: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp
