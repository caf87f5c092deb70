"""When a version that comes again is the same one, and what its author claims against what the artifact is."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from phantom_platform.errors import AlreadyExists, Invalid, Violation
from phantom_registry.domain.values import Version, VersionSpec

WARNINGS = "phantom_warnings"
"""The key of a version's metadata under which the registry itself writes."""

MAX_TAG = 128

FRAMEWORK_OF_FORMAT: Mapping[str, str] = {
    "xgboost-json": "xgboost",
    "xgboost-ubj": "xgboost",
    "onnx": "onnx",
    "skops": "scikit-learn",
    "pickle": "scikit-learn",
}

_ALIASES = {
    "sklearn": "scikit-learn",
    "scikitlearn": "scikit-learn",
    "skops": "scikit-learn",
    "joblib": "scikit-learn",
    "xgb": "xgboost",
    "onnxruntime": "onnx",
}
# Families that an XGBoost file can hold, as people write them.
_XGBOOST_ALGORITHMS = re.compile(r"xgb|boost|gbt|gbdt|gbm|dart|gblinear|random.?forest|rf$")
_OTHER_BOOSTERS = re.compile(r"light.?gbm|lgbm|cat.?boost|ada.?boost")


def check_same(existing: Version, spec: VersionSpec, same_schema: bool) -> None:
    """Raise `AlreadyExists` `version_exists` unless `spec` means `existing`: the same bytes under the same schema."""
    name = f"version {spec.version} of {existing.model_id}"
    if existing.digest != spec.digest:
        raise AlreadyExists(
            f"{name} exists with the bytes {existing.digest}, not {spec.digest}; give other bytes another version",
            code="version_exists",
            existing_digest=existing.digest,
            given_digest=spec.digest,
        )
    if not same_schema:
        raise AlreadyExists(
            f"{name} exists with these bytes ({existing.digest}) and another schema; "
            "give another schema another version",
            code="version_exists",
            existing_digest=existing.digest,
            given_digest=spec.digest,
            differs="schema_json",
        )


def check_metadata(metadata: Mapping[str, Any], field: str) -> None:
    """Raise `Invalid` where the author's metadata uses the registry's own key."""
    if WARNINGS in metadata:
        description = f"{WARNINGS!r} is written by the registry; use another name"
        raise Invalid(code="reserved_key", violations=[Violation(f"{field}.{WARNINGS}", description)])


def check_file_name(file_name: str) -> None:
    """Raise `Invalid` where the artifact's name is more than the last part of a path."""
    if any(mark in file_name for mark in "/\\") or not file_name.isprintable() or file_name in (".", ".."):
        description = f"{file_name!r} is not a file's name; send the last part of its path"
        raise Invalid(code="invalid_file_name", violations=[Violation("version.file_name", description)])


def check_tags(tags: Sequence[str]) -> None:
    """Raise `Invalid` where a tag is empty or longer than 128 characters."""
    for number, tag in enumerate(tags):
        if not tag.strip() or len(tag) > MAX_TAG:
            violation = Violation(
                f"tags[{number}]", f"a tag is 1 to {MAX_TAG} characters, not {len(tag.strip())}"
            )
            raise Invalid(code="invalid_tag", violations=[violation])


def claim_warnings(metadata: Mapping[str, Any], found_format: str) -> list[dict[str, str]]:
    """Where `metadata.framework` and `metadata.algorithm` contradict the artifact; what cannot be told is not said.

    A pickle or an ONNX graph may hold any algorithm; which one is not decided here, since nothing is unpickled.
    """
    found = FRAMEWORK_OF_FORMAT[found_format]
    warnings = []
    claimed = _normal(metadata.get("framework"))
    if claimed and claimed != found:
        warnings.append(
            {
                "code": "framework_mismatch",
                "claimed": str(metadata["framework"]),
                "found": found,
                "message": f"metadata.framework says {metadata['framework']!r}, "
                f"and the artifact is {found} ({found_format})",
            }
        )
    algorithm = _normal(metadata.get("algorithm"))
    if algorithm and found == "xgboost" and not _fits_xgboost(algorithm):
        warnings.append(
            {
                "code": "algorithm_mismatch",
                "claimed": str(metadata["algorithm"]),
                "found": found,
                "message": f"metadata.algorithm says {metadata['algorithm']!r}; the artifact is an XGBoost model",
            }
        )
    return warnings


def with_warnings(metadata: Mapping[str, Any], warnings: list[dict[str, str]]) -> dict[str, Any]:
    """The metadata as it is stored."""
    return {**metadata, WARNINGS: warnings} if warnings else dict(metadata)


def _normal(value: object) -> str:
    if not isinstance(value, str):
        return ""
    text = value.strip().lower().replace("_", "-").replace(" ", "-")
    return _ALIASES.get(text.replace("-", ""), text)


def _fits_xgboost(algorithm: str) -> bool:
    return bool(_XGBOOST_ALGORITHMS.search(algorithm)) and not _OTHER_BOOSTERS.search(algorithm)
