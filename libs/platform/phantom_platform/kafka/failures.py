"""What Kafka's failures mean in our words."""

from __future__ import annotations

from aiokafka.errors import KafkaError, MessageSizeTooLargeError, RecordListTooLargeError

from phantom_platform.errors import Invalid, PhantomError, Unavailable


def as_phantom(error: BaseException, doing: str) -> PhantomError:
    """Too large is final; everything else of Kafka may succeed later."""
    if isinstance(error, MessageSizeTooLargeError | RecordListTooLargeError):
        return Invalid(f"Kafka refused a record as too large while {doing}", code="record_too_large")
    reason = str(error) or type(error).__name__
    return Unavailable(f"Kafka is away while {doing}: {reason}", code="kafka_unavailable")


CONNECTION_ERRORS = (KafkaError, OSError, TimeoutError)
