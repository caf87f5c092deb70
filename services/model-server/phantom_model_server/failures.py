"""Errors as gRPC codes. The platform's table (`phantom_platform.rpc.status`) is not imported: it brings the
whole guarded server with it, 40 MB and half a second in every replica. A test holds the two equal.
"""

from __future__ import annotations

from phantom_platform import errors
from phantom_runtimes import Invalid as InvalidArtifact

INTERNAL = 13

CODES: dict[type[errors.PhantomError], int] = {
    errors.Invalid: 3,
    errors.DeadlineExceeded: 4,
    errors.NotFound: 5,
    errors.AlreadyExists: 6,
    errors.Forbidden: 7,
    errors.Exhausted: 8,
    errors.Refused: 9,
    errors.Conflict: 10,
    errors.Unsupported: 12,
    errors.Unavailable: 14,
    errors.Unauthenticated: 16,
}


def code_of(error: errors.PhantomError) -> int:
    """The gRPC status code of an error; INTERNAL for one that has none."""
    return next((CODES[kind] for kind in type(error).__mro__ if kind in CODES), INTERNAL)


def of_artifact(error: InvalidArtifact) -> errors.Invalid:
    """The runtimes' error as the platform's."""
    same = errors.Invalid(error.message, code=error.code)
    same.fields.update(error.fields)
    return same


def model_failed(error: Exception) -> errors.PhantomError:
    """The model raised on values that its schema allows."""
    words = (str(error) or type(error).__name__).splitlines()[0][:300]
    return errors.PhantomError(f"the model failed: {words}", code="model_failed")


def draining() -> errors.Unavailable:
    """Refused before it was executed, so it may be sent to another replica at once."""
    return errors.Unavailable(
        "this replica is being taken away; ask another one", code="draining", retry_after_s=0.0
    )


def too_late() -> errors.DeadlineExceeded:
    """The call's time had passed before the model was run."""
    return errors.DeadlineExceeded(
        "the call's time had passed before the model was run", code="deadline_exceeded"
    )
