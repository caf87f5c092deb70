"""Versions of real models in a content-addressed store, and servers of them."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xgboost

from phantom_contracts.schema import Feature, ModelSchema, Outcome
from phantom_probing.client import Client, Target
from phantom_probing.scratch import Running, ScratchSettings, Version, running

CHANNELS = ("web", "shop", "phone")
FRAUD = ModelSchema(
    features=(
        Feature(name="amount", type="float"),
        Feature(name="hour", type="int", allows_missing=False),
        Feature(name="channel", type="string", categories=CHANNELS, required=False),
    ),
    class_labels=("legit", "fraud"),
    positive_label="fraud",
    outcome=Outcome(field="actual_fraud", type="bool", mapping={"true": "fraud", "false": "legit"}),
)
PRICE = ModelSchema(features=(Feature(name="size"), Feature(name="age")), task="regression")


def flights(count: int, seed: int) -> tuple[pd.DataFrame, np.ndarray]:
    """Features, and whether it is fraud."""
    random = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "amount": random.uniform(0, 100, count).astype(np.float32),
            "hour": random.integers(0, 24, count),
            "channel": pd.Categorical.from_codes(random.integers(0, 3, count), CHANNELS),
        }
    )
    return frame, ((frame.amount > 60) ^ (frame.channel == "phone")).to_numpy().astype(int)


def keep(store: Path, content: bytes) -> str:
    """The digest under which the store has it now."""
    sha256 = hashlib.sha256(content).hexdigest()
    path = store / "sha256" / sha256[:2] / sha256
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return f"sha256:{sha256}"


def train(schema: ModelSchema, frame: pd.DataFrame, target: np.ndarray, **parameters: object) -> bytes:
    objective = "binary:logistic" if schema.task == "classification" else "reg:squarederror"
    matrix = xgboost.DMatrix(frame, target, enable_categorical=True)
    booster = xgboost.train({"objective": objective, "max_depth": 4, "nthread": 1, **parameters}, matrix, 12)
    return bytes(booster.save_raw("ubj"))


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="session")
def versions(store: Path) -> dict[str, Version]:
    """`good`, `bad` (amounts in cents), `price` (regression), and `damaged`, whose bytes are others."""
    frame, fraud = flights(2000, 1)
    cents = frame.assign(amount=frame.amount * 100)
    sizes = pd.DataFrame(np.random.default_rng(3).uniform(size=(500, 2)), columns=["size", "age"])
    made = {
        "good": (FRAUD, train(FRAUD, frame, fraud)),
        "bad": (FRAUD, train(FRAUD, cents, fraud)),
        "price": (PRICE, train(PRICE, sizes, (10 * sizes["size"] - sizes["age"]).to_numpy())),
    }
    found = {
        name: Version(schema_name(schema), name, keep(store, content), "m.ubj", "xgboost", schema)
        for name, (schema, content) in made.items()
    }
    sha256 = found["good"].digest.replace("sha256:", "")[::-1]
    path = store / "sha256" / sha256[:2] / sha256
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"something else")
    return {**found, "damaged": replace(found["good"], version="damaged", digest=f"sha256:{sha256}")}


def schema_name(schema: ModelSchema) -> str:
    return "fraud" if schema.task == "classification" else "price"


@pytest.fixture
def settings(store: Path, tmp_path: Path) -> ScratchSettings:
    return ScratchSettings(tmp_path / "scratch", store, tmp_path / "downloads", ready_timeout_s=60)


Serve = Callable[[str], AbstractAsyncContextManager[Client]]


@pytest.fixture
def serve(versions: dict[str, Version], settings: ScratchSettings) -> Serve:
    """serve(name) → a client of a fresh server."""

    @asynccontextmanager
    async def open_client(name: str) -> AsyncIterator[Client]:
        async with running(versions[name], settings) as server, client_of(server) as client:
            yield client

    return open_client


def client_of(server: Running) -> Client:
    return Client(Target(server.address, server.version.model_id), server.version.model_schema)
