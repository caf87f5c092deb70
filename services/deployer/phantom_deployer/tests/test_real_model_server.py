"""The local backend and the model server that is shipped."""

import hashlib
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
import xgboost

from phantom_contracts.schema import Feature, ModelSchema
from phantom_deployer.domain.deployment import Deployment, ModelVersion, Replica
from phantom_deployer.domain.reconcile import Observation
from phantom_deployer.local_backend import LocalBackend, LocalSettings
from phantom_deployer.replica_calls import ReplicaCalls
from phantom_deployer.tests.builders import created
from phantom_deployer.tests.test_local_backend import Tokens
from phantom_platform.clock import SystemClock
from phantom_platform.testing.waiting import until

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A small classifier of two features."""
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(200, 2))
    booster = xgboost.XGBClassifier(n_estimators=3, max_depth=2)
    booster.fit(rows, rows[:, 0] > 0)
    path = tmp_path_factory.mktemp("model") / "model.json"
    booster.save_model(path)
    return path.read_bytes()


@pytest_asyncio.fixture(loop_scope="session")
async def backend(tmp_path: Path) -> AsyncIterator[LocalBackend]:
    made = LocalBackend(
        LocalSettings(tmp_path, "127.0.0.1:1", drain_timeout_s=5), Tokens(), SystemClock(), ReplicaCalls()
    )
    yield made
    for replica_id in made.present():
        made.signal(replica_id, signal.SIGKILL)
    await made.close()


def deployment_of(folder: Path, content: bytes, stored: bytes | None = None) -> tuple[Deployment, Replica]:
    """A deployment of that artifact, of which `stored` lies in the store."""
    digest = hashlib.sha256(content).hexdigest()
    place = folder / "artifacts" / "sha256" / digest[:2] / digest
    place.parent.mkdir(parents=True)
    place.write_bytes(content if stored is None else stored)
    features = (Feature(name="a"), Feature(name="b"))
    schema = ModelSchema(features=features, class_labels=("no", "yes"))
    model = ModelVersion("m", "1.0.0", f"sha256:{digest}", "model.json", "xgboost", len(content), schema)
    deployment = created()
    revision = replace(deployment.revisions[0], model=model)
    replica = Replica("r1", revision.id, drain_key="k" * 32, phase="starting", launch_id="l1")
    return deployment.with_revision(revision).with_process(replica), replica


async def look(backend: LocalBackend, deployment: Deployment) -> Observation:
    return (await backend.observe(deployment))["r1"]


async def test_it_serves_is_adopted_drains_and_ends(
    backend: LocalBackend, tmp_path: Path, artifact: bytes
) -> None:
    deployment, replica = deployment_of(tmp_path, artifact)
    await backend.launch(deployment, replica)

    async def agrees() -> Observation | None:
        seen = await look(backend, deployment)
        return seen if seen.is_agreeing else None

    seen = await until(agrees, within_s=30)
    assert not seen.is_draining
    await backend.drain(replace(replica, phase="ready", address=seen.address), "")

    async def has_ended() -> bool:
        now = await look(backend, deployment)
        return not now.is_running and now.is_child_alive is False and not now.error_code

    await until(has_ended, within_s=20)


@pytest.mark.parametrize(
    ("cut", "stored", "code"),
    [(-40, None, "corrupt_model"), (None, b"other bytes", "digest_mismatch")],
)
async def test_bad_bytes_end_it_for_good(
    backend: LocalBackend, tmp_path: Path, artifact: bytes, cut: int | None, stored: bytes | None, code: str
) -> None:
    content = artifact[:cut]
    deployment, replica = deployment_of(tmp_path, content, stored)
    await backend.launch(deployment, replica)

    async def has_failed() -> Observation | None:
        seen = await look(backend, deployment)
        return seen if seen.is_child_alive is False else None

    seen = await until(has_failed, within_s=30)
    assert (seen.error_code, seen.is_permanent) == (code, True)


async def test_killed_it_frees_its_lock(backend: LocalBackend, tmp_path: Path, artifact: bytes) -> None:
    deployment, replica = deployment_of(tmp_path, artifact)
    await backend.launch(deployment, replica)

    async def is_running() -> bool:
        return (await look(backend, deployment)).is_agreeing

    await until(is_running, within_s=30)
    os.kill((await look(backend, deployment)).pid, signal.SIGKILL)

    async def is_dead() -> bool:
        return not (await look(backend, deployment)).is_running

    await until(is_dead)
