"""Versions that are run to be looked at: their schema, their artifact's file, a model server of their own."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

from pydantic import ValidationError

from phantom_contracts.schema import ModelSchema
from phantom_pipelines.domain.values import Dataset, Lineage, ModelVersion
from phantom_platform.errors import PhantomError, Refused
from phantom_platform.telemetry import logs
from phantom_probing import datasets
from phantom_probing.client import Client, Target
from phantom_probing.dataset_files import Access
from phantom_probing.dataset_files import Dataset as DatasetFile
from phantom_probing.datasets import Labelled
from phantom_probing.scratch import ScratchSettings, Version, end_leftovers, running

log = logs.get(__name__)


class Registry(Protocol):
    """What is asked of the registry."""

    async def version(self, workspace: str, model_id: str, version: str) -> ModelVersion: ...
    async def lineage(self, workspace: str, model_id: str, version: str) -> Lineage: ...
    async def dataset(self, workspace: str, name: str, version: str) -> Dataset: ...
    async def download(self, workspace: str, digest: str, target: Path) -> None: ...


class Tokens(Protocol):
    """Governance."""

    async def issue(self, workspace: str, digest: str, subject: str) -> str: ...


class Laboratory:
    """Runs versions away from every route. What is timed is timed one after the other: the machine is shared.

    A part of the service: its start ends the model servers that a killed process left, and makes the first folder that
    datasets are read from, which is the service's own.
    """

    name = "pipelines-laboratory"

    def __init__(self, settings: ScratchSettings, registry: Registry, tokens: Tokens, access: Access) -> None:
        self._settings = settings
        self._access = access
        self._registry = registry
        self._tokens = tokens
        self.timing = asyncio.Lock()

    async def start(self) -> None:
        await asyncio.to_thread(self._access.roots[0].mkdir, parents=True, exist_ok=True)
        await asyncio.to_thread(end_leftovers, self._settings.folder)

    async def stop(self) -> None:
        """What runs ends with the stage that runs it."""

    @asynccontextmanager
    async def serving(self, workspace: str, version: ModelVersion) -> AsyncIterator[Client]:
        """A client of a fresh model server. Raises what the server says where it does not start."""
        schema = schema_of(version)
        subject = Version(
            version.model_id,
            version.version,
            version.digest,
            version.file_name,
            version.framework,
            schema,
            version.size_bytes,
            workspace,
        )
        token = await self._token(workspace, version.digest)
        async with (
            running(subject, self._settings, token) as server,
            Client(Target(server.address, version.model_id), schema) as client,
        ):
            yield client

    @asynccontextmanager
    async def artifact(self, workspace: str, version: ModelVersion) -> AsyncIterator[Path]:
        """The artifact's file: of the shared store, else fetched for as long as the block lasts."""
        sha256 = version.digest.removeprefix("sha256:")
        stored = self._settings.artifacts_dir / "sha256" / sha256[:2] / sha256
        if stored.is_file():
            yield stored
            return
        folder = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="phantom-artifact-"))
        try:
            target = folder / sha256
            await self._registry.download(workspace, version.digest, target)
            yield target
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    async def rows(
        self,
        workspace: str,
        schema: ModelSchema,
        name: str,
        version: str = "",
        *,
        expected_column: str = "",
        id_column: str = "",
    ) -> Labelled:
        """A registered dataset's rows (phantom_probing.datasets.read); without a version the newest's."""
        found = await self._registry.dataset(workspace, name, version)
        registered = DatasetFile(found.name, found.version, found.uri, found.digest)
        return await asyncio.to_thread(
            datasets.read, registered, schema, self._access, expected_column, id_column
        )

    async def _token(self, workspace: str, digest: str) -> str:
        """None where governance is away: what is in the store needs none."""
        try:
            return await self._tokens.issue(workspace, digest, "scratch")
        except PhantomError as error:
            log.warning("server starts without a token", action="scratch_token_missing", reason=str(error))
            return ""


def schema_of(version: ModelVersion) -> ModelSchema:
    """Refused `schema_missing`, `schema_invalid`."""
    named = f"version {version.version} of {version.model_id}"
    if not version.schema_json:
        raise Refused(
            f"{named} has no schema, so nobody knows what to send it; register a version with its schema",
            code="schema_missing",
        )
    try:
        return ModelSchema.model_validate_json(version.schema_json)
    except ValidationError as error:
        raise Refused(
            f"the schema of {named} cannot be read: {error.errors()[0]['msg']}", code="schema_invalid"
        ) from error
