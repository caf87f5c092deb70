"""A stack for the pages that deploy: the page on the registry takes the guide's model for itself on the common one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from harness import models
from harness.collector import Collector
from harness.guide import MODEL, Studio
from harness.people import make_people
from harness.stack import running_stack
from phantom_ml_studio import Environments


@pytest.fixture(scope="session")
def studio(request: pytest.FixtureRequest, collector: Collector) -> Iterator[Studio]:
    """The guide's model in two versions, 2.1.0 in production, and a staging environment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PHANTOM_TEST_STACK", raising=False)
        with running_stack(collector.address, lambda: request.session.testsfailed > 0) as stack:
            # Where the service may read the data that are registered in it.
            folder = stack.data_dir / "datasets" / "guide"
            folder.mkdir(parents=True)
            people = make_people(stack)
            made = Studio(stack, people.admin, people.engineer, people.reviewer, folder)
            _register(made)
            yield made
            people.close()


def _register(studio: Studio) -> None:
    Environments(studio.admin.client).create("staging")
    first = models.xgboost_file(studio.folder / "fraud_detector_v2.json", 1)
    studio.registry.register_model(
        MODEL, first, metadata={"version": "2.1.0"}, schema=models.SCHEMA, stage="production"
    )
    second = models.xgboost_file(studio.folder / "fraud_detector_v2_1.json", 2)
    studio.registry.create_version(MODEL, "2.1.1", second)
    studio.deployments.wait_ready(studio.deployments.deploy(MODEL, "2.1.0").id)
