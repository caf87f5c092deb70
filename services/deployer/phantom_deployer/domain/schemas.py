"""Whether a version may stand behind an endpoint, seen from the endpoint's clients (contracts §6)."""

from __future__ import annotations

from phantom_contracts.schema import EndpointSchema, ModelSchema, endpoint_schema
from phantom_deployer.domain.deployment import names
from phantom_platform.errors import Refused


def check_features(candidate: ModelSchema, endpoint: EndpointSchema, *, vouched: bool) -> None:
    """Raise Refused where clients of the endpoint would have to send what they need not send today.

    `vouched`: the caller knows that they send it already.
    """
    try:
        endpoint_schema([candidate], endpoint)
    except ValueError as error:
        raise Refused(
            f"{error}; text and numbers cannot share a column, so give the feature another name",
            code="schema_conflict",
        ) from error
    missing = newly_required(candidate, endpoint)
    if missing and not vouched:
        raise Refused(
            f"this version requires {names(missing)}, which clients of this endpoint need not send today; make them "
            "optional in its schema, or deploy with requires_new_features once clients send them",
            code="new_features_required",
            features=", ".join(sorted(missing)),
        )


def newly_required(candidate: ModelSchema, endpoint: EndpointSchema) -> frozenset[str]:
    """Features that the version requires and the endpoint does not."""
    wanted = {each.name for each in candidate.features if each.required}
    return frozenset(wanted - {each.name for each in endpoint.columns if each.required})


def differences(candidate: ModelSchema, stable: ModelSchema) -> str:
    """What makes answers or outcomes of the two hard to compare, in words; empty where nothing does."""
    found = []
    if candidate.task != stable.task:
        found.append(f"task {candidate.task}, not {stable.task}")
    elif set(candidate.class_labels) != set(stable.class_labels):
        found.append(f"class labels {list(candidate.class_labels)}, not {list(stable.class_labels)}")
    elif candidate.score_label != stable.score_label:
        found.append(f"score of {candidate.score_label!r}, not {stable.score_label!r}")
    if candidate.outcome != stable.outcome:
        found.append("another outcome definition")
    return f"differs from the stable revision: {'; '.join(found)}" if found else ""
