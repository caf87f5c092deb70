"""Kafka: records out, events in, projections of compacted topics."""

from phantom_platform.kafka.consumers import Consumers
from phantom_platform.kafka.producer import Producer
from phantom_platform.kafka.projection import Projection
from phantom_platform.kafka.retry import RetryPolicy
from phantom_platform.kafka.router import SUPERSEDED, RawRecord, Received, Router
from phantom_platform.kafka.topics import ensure_topics

__all__ = [
    "SUPERSEDED",
    "Consumers",
    "Producer",
    "Projection",
    "RawRecord",
    "Received",
    "RetryPolicy",
    "Router",
    "ensure_topics",
]
