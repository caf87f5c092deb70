"""The AsyncAPI document of every topic, from the catalogue: `python -m phantom_contracts.asyncapi [--check]`.

It is kept in the repository as `docs/asyncapi.yaml`, so that a change of contract shows in a diff.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml
from pydantic.json_schema import models_json_schema

from phantom_contracts.events.base import Event
from phantom_contracts.topics import CATALOGUE, PREDICTION_BATCH_TYPE, PREDICTIONS, Topic

DOCUMENT = Path(__file__).parents[3] / "docs" / "asyncapi.yaml"
_HEADERS = {
    "type": "object",
    "required": ["ce_specversion", "ce_id", "ce_source", "ce_type", "ce_time"],
    "properties": {
        "ce_specversion": {"const": "1.0"},
        "ce_id": {"type": "string"},
        "ce_source": {"type": "string", "description": "phantom/<service>, or an upstream's own URI"},
        "ce_type": {"type": "string"},
        "ce_time": {"type": "string", "format": "date-time"},
        "content-type": {"type": "string"},
        "traceparent": {"type": "string", "description": "W3C trace context of whoever announced it"},
        "ce_aggregateversion": {"type": "string", "description": "logs: version of the aggregate, decimal"},
        "phantom_version": {"type": "string", "description": "compacted topics: version of the key, decimal"},
    },
}


def document() -> dict[str, Any]:
    """The AsyncAPI 3.0 document as plain values."""
    events = sorted({e for topic in CATALOGUE for e in topic.events}, key=lambda e: e.type)
    _, definitions = models_json_schema(
        [(e, "validation") for e in events], ref_template="#/components/schemas/{model}"
    )
    messages = {e.type: _message(e) for e in events} | {PREDICTION_BATCH_TYPE: _prediction_batch()}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Phantom ML Studio events",
            "version": "1.0.0",
            "description": "CloudEvents 1.0, Kafka binary mode. Readers ignore unknown fields and skip unknown types.",
        },
        "defaultContentType": "application/json",
        "channels": {topic.name: _channel(topic) for topic in CATALOGUE},
        "operations": {f"publish.{topic.name}": _operation(topic) for topic in CATALOGUE},
        "components": {
            "messages": messages,
            "schemas": {"CloudEventHeaders": _HEADERS, **dict(sorted(definitions.get("$defs", {}).items()))},
        },
    }


def render() -> str:
    """The document as YAML."""
    return yaml.safe_dump(document(), sort_keys=False, allow_unicode=True, width=120)


def _types(topic: Topic) -> list[str]:
    return [PREDICTION_BATCH_TYPE] if topic is PREDICTIONS else [event.type for event in topic.events]


def _channel(topic: Topic) -> dict[str, Any]:
    kept = "the newest record of each key" if topic.kind == "compacted" else "7 days"
    return {
        "address": topic.name,
        "description": f"Written by {topic.writer}; key {topic.key}; keeps {kept}.",
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in _types(topic)},
        "bindings": {"kafka": {"topic": topic.name, "partitions": topic.partitions}},
    }


def _operation(topic: Topic) -> dict[str, Any]:
    return {
        "action": "send",
        "channel": {"$ref": f"#/channels/{topic.name}"},
        "summary": f"{topic.writer} writes",
    }


def _message(event: type[Event]) -> dict[str, Any]:
    return {
        "name": event.type,
        "summary": " ".join((event.__doc__ or event.__name__).split()),
        "headers": {"$ref": "#/components/schemas/CloudEventHeaders"},
        "payload": {"$ref": f"#/components/schemas/{event.__name__}"},
    }


def _prediction_batch() -> dict[str, Any]:
    return {
        "name": PREDICTION_BATCH_TYPE,
        "summary": "What one gateway process answered for one endpoint, as columns.",
        "contentType": PREDICTIONS.content_type,
        "headers": {"$ref": "#/components/schemas/CloudEventHeaders"},
        "payload": {
            "schemaFormat": "application/vnd.google.protobuf;version=3",
            "schema": "see proto/phantom/predictions/v1/prediction_batch.proto, message PredictionBatch",
        },
    }


def main(arguments: list[str]) -> int:
    """Write the document, or with --check compare it with the one that is kept."""
    fresh = render()
    if "--check" not in arguments:
        DOCUMENT.parent.mkdir(exist_ok=True)
        DOCUMENT.write_text(fresh)
        return 0
    if not DOCUMENT.exists() or DOCUMENT.read_text() != fresh:
        sys.stderr.write(f"{DOCUMENT} is not what the contracts say: run `make generate` and commit it\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
