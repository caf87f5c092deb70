"""What the monitor knows of routes: aliases and schemas, from the compacted topic and its own table."""

from __future__ import annotations

from collections.abc import Mapping

from phantom_contracts.events.deployer import RouteRecord
from phantom_contracts.schema import ModelSchema


class KnownRoutes:
    """In memory; fed by the projection of `phantom.routes.v1`, and by what the table kept from earlier."""

    def __init__(self) -> None:
        self._names: dict[tuple[str, str], str] = {}
        self._schemas: dict[tuple[str, str], ModelSchema] = {}

    def canonical(self, workspace: str, endpoint: str) -> str:
        """The endpoint that a name or alias means; the name itself where none is known."""
        return self._names.get((workspace, endpoint), endpoint)

    def schema(self, workspace: str, revision: str) -> ModelSchema | None:
        """A revision's schema, also after its route has gone."""
        return self._schemas.get((workspace, revision))

    def remember(self, schemas: Mapping[tuple[str, str], ModelSchema]) -> None:
        """Schemas by (workspace, revision)."""
        self._schemas.update(schemas)

    def changed(self, record: RouteRecord) -> dict[str, ModelSchema]:
        """Take over a route; returns its revisions' schemas."""
        for name in (record.endpoint, *record.aliases):
            self._names[record.workspace, name] = record.endpoint
        schemas = {r.id: r.model_schema for r in record.revisions if r.model_schema is not None}
        self.remember({(record.workspace, revision): schema for revision, schema in schemas.items()})
        return schemas


def parse_route(_key: str, value: bytes, _headers: Mapping[str, bytes]) -> RouteRecord:
    """A route record from its bytes. Raises pydantic's ValidationError."""
    return RouteRecord.model_validate_json(value)
