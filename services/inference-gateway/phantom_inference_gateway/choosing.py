"""Which revision a call gets, and for which unit: what its endpoint's plan says, within what its caller may ask for."""

from __future__ import annotations

from phantom_inference_gateway.attempts import Target
from phantom_inference_gateway.calls import Call, id_text
from phantom_inference_gateway.domain.routing import Choice, Decision, Plan, Unit
from phantom_inference_gateway.domain.tables import Table
from phantom_inference_gateway.ports import Gatekeeper
from phantom_platform.errors import Forbidden, Invalid, NotFound, Refused, Unauthenticated

_OVERRIDE_PERMISSION = "predictions:override"


def choose(call: Call, plan: Plan, prediction_id: bytes) -> tuple[Choice, str]:
    """The choice, and the unit as it is logged: empty where it is unsticky.

    Raises NotFound (the version or revision asked for is not in the route), Invalid (the unit).
    """
    source = _source(call, prediction_id)
    if not is_exact(call):
        choice, unit, is_sticky = plan.decide(source)
        return choice, unit if is_sticky else ""
    unit, is_sticky = plan.unit(source)
    return _exact(call, plan, _revision(call, plan)), unit if is_sticky else ""


def is_exact(call: Call) -> bool:
    """Whether the call is pinned or overridden: never another revision answers it."""
    return bool(call.model_version or call.override_revision)


def asked(call: Call, plan: Plan, prediction_id: bytes) -> tuple[Choice, str]:
    """Of an exact call, for the record of its refusal: what it asks for, the stable revision where the route has no
    such thing; its unit where that can be read. Raises nothing.
    """
    try:
        revision = _revision(call, plan)
    except NotFound:
        revision = plan.control
    try:
        unit, is_sticky = plan.unit(_source(call, prediction_id))
    except Invalid:
        unit, is_sticky = "", False
    return _exact(call, plan, revision), unit if is_sticky else ""


async def check_exact(call: Call, table: Table[Target], gatekeeper: Gatekeeper) -> None:
    """Raises NotFound, and Refused for a pin to a rolled-back revision without the permission for it."""
    revision = table.plan.revisions[_revision(call, table.plan)]
    if not call.model_version or revision.is_pinnable:
        return
    try:
        await gatekeeper.require(call, _OVERRIDE_PERMISSION)
    except (Unauthenticated, Forbidden) as error:
        raise Refused(
            f"revision {revision.id} was rolled back; leave the version out, or call with a token that has the "
            f"permission {_OVERRIDE_PERMISSION}",
            code="revision_rolled_back",
            revision=revision.id,
        ) from error


def _source(call: Call, prediction_id: bytes) -> Unit:
    return Unit(call.parameter, call.unit_metadata, call.request_id or id_text(prediction_id))


def _revision(call: Call, plan: Plan) -> str:
    if call.model_version:
        return plan.pinned(call.model_version).id
    return plan.overridden(call.override_revision).id


def _exact(call: Call, plan: Plan, revision: str) -> Choice:
    decision = Decision.PIN if call.model_version else Decision.OVERRIDE
    return plan.named(Choice(revision, "control", "control", decision))
