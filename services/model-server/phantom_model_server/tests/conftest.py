"""A real model, an endpoint around it, and real replica processes."""

import asyncio
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import pytest

from inference import grpc_service_pb2 as oip
from phantom.modelserver.v1 import model_server_service_pb2 as pb
from phantom.modelserver.v1 import model_server_service_pb2_grpc as stubs
from phantom_contracts.launch import ReplicaFile
from phantom_contracts.schema import Feature, ModelSchema, endpoint_schema

CARRIERS = ("UA", "AA", "B6")
NUMERIC = ModelSchema(
    features=(
        Feature(name="distance", type="float"),
        Feature(name="hour", type="int", allows_missing=False),
        Feature(name="is_weekend", type="bool"),
        Feature(name="wind", type="double", required=False),
    ),
    class_labels=("on_time", "late"),
    positive_label="late",
)
MIXED = NUMERIC.model_copy(
    update={"features": (*NUMERIC.features[:2], Feature(name="carrier", type="string", categories=CARRIERS))}
)
DRAIN_KEY = "0123456789abcdef"


@pytest.fixture(scope="session")
def artifacts(tmp_path_factory):
    """name → (schema, file, sha256) of models `numeric` and `mixed`, in a content-addressed store."""
    import pandas as pd
    import xgboost as xgb

    root = tmp_path_factory.mktemp("store")
    rng = np.random.default_rng(2)
    frame = pd.DataFrame(
        {
            "distance": rng.normal(size=900).astype(np.float32),
            "hour": rng.integers(0, 24, 900),
            "is_weekend": rng.integers(0, 2, 900).astype(bool),
            "wind": rng.normal(size=900),
            "carrier": pd.Categorical.from_codes(rng.integers(0, 3, 900), CARRIERS),
        }
    )
    label = ((frame.distance + (frame.hour > 12) + (frame.carrier == "AA") * 2) > 1).astype(int)
    found = {}
    for name, schema in (("numeric", NUMERIC), ("mixed", MIXED)):
        rows = xgb.DMatrix(frame[[f.name for f in schema.features]], label, enable_categorical=True)
        booster = xgb.train({"objective": "binary:logistic", "max_depth": 4, "nthread": 1}, rows, 10)
        content = bytes(booster.save_raw("ubj"))
        sha256 = hashlib.sha256(content).hexdigest()
        path = root / "sha256" / sha256[:2] / sha256
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        found[name] = (schema, path, sha256)
    return root, found


@dataclass
class Replica:
    """A replica's files and, once started, its process."""

    folder: Path
    launch: dict
    process: subprocess.Popen | None = None

    @property
    def path(self) -> Path:
        return Path(self.launch["replica_path"])

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def file(self) -> ReplicaFile:
        return ReplicaFile.model_validate_json(self.path.read_bytes())

    def write(self) -> Path:
        path = self.folder / "launch.json"
        path.write_text(json.dumps(self.launch, default=str))
        return path

    def spawn(self) -> subprocess.Popen:
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "phantom_model_server", "--launch", str(self.write())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def start(self) -> "Replica":
        self.process = self.spawn()
        until = time.monotonic() + 30
        while not self.path.exists():
            assert self.process.poll() is None, self.log
            assert time.monotonic() < until, self.log
            time.sleep(0.01)
        return self

    def ended(self, timeout: float = 30) -> int:
        return self.process.wait(timeout)

    def terminate(self) -> None:
        os.kill(self.process.pid, signal.SIGTERM)


@pytest.fixture
def replica(artifacts, tmp_path):
    """replica(name="numeric", **launch fields) → Replica; processes are gone after the test."""
    root, models = artifacts
    made = []

    def make(name="numeric", **fields):
        schema, _, sha256 = models[name]
        number = len(made)
        folder = tmp_path / str(number)
        folder.mkdir()
        launch = {
            "replica_id": f"flights-prod.1-{number}",
            "launch_id": f"launch-{number}",
            "deployment_id": "flights-prod",
            "revision": "flights-prod.1",
            "model_id": "flights",
            "model_version": "1.0.0",
            "artifact": {"digest": f"sha256:{sha256}", "file_name": "m.ubj", "framework": "xgboost"},
            "model_schema": schema.model_dump(mode="json"),
            "artifacts_dir": root,
            "download_dir": folder / "downloads",
            "lock_path": folder / "lock",
            "replica_path": folder / "replica.json",
            "drain_key": DRAIN_KEY,
            "drain_timeout_s": 20.0,
            **fields,
        }
        made.append(Replica(folder, launch))
        return made[-1]

    yield make
    for each in made:
        if each.process is not None and each.process.poll() is None:
            each.process.kill()
            each.process.wait(10)


def request(rows, *, name="flights-prod", request_id="r1", dtype="<f4", **fields):
    """A ModelInferRequest with the single tensor."""
    matrix = np.asarray(rows, dtype=dtype)
    datatype = {"<f4": "FP32", "<f8": "FP64"}[dtype]
    made = oip.ModelInferRequest(model_name=name, id=request_id, **fields)
    made.inputs.add(name="features", datatype=datatype, shape=matrix.shape)
    made.raw_input_contents.append(matrix.tobytes())
    return made


class Gateway:
    """The gateway's side of one frame stream."""

    def __init__(self, call) -> None:
        self._call = call
        self._sequence = 0

    async def open(self, replica, schema=None, **wrong):
        schema = schema or endpoint_schema([ModelSchema.model_validate(replica.launch["model_schema"])])
        opening = {
            "endpoint": "flights-prod",
            "replica_id": replica.launch["replica_id"],
            "revision": replica.launch["revision"],
            "endpoint_schema": schema.model_dump_json().encode(),
            "schema_version": schema.version,
            **wrong,
        }
        await self._call.write(pb.FramesRequest(open=pb.Open(**opening)))
        return await self.read()

    async def send(self, *requests, remaining_ms=None):
        self._sequence += 1
        bodies = [each if isinstance(each, bytes) else each.SerializeToString() for each in requests]
        times = [10_000] * len(bodies) if remaining_ms is None else remaining_ms
        frame = pb.RequestFrame(sequence=self._sequence, requests=bodies, remaining_ms=times)
        await self._call.write(pb.FramesRequest(frame=frame))
        return self._sequence

    async def ask(self, *requests, **more):
        sequence = await self.send(*requests, **more)
        answer = await self.read()
        assert answer.frame.sequence == sequence
        return answer.frame

    async def read(self):
        return await asyncio.wait_for(self._call.read(), 20)

    def cancel(self):
        self._call.cancel()

    async def close(self):
        await self._call.done_writing()


@asynccontextmanager
async def channel_to(replica):
    async with grpc.aio.insecure_channel(replica.file().address) as channel:
        yield channel


@asynccontextmanager
async def gateway(replica, **opening):
    """An opened frame stream."""
    async with channel_to(replica) as channel:
        stream = Gateway(stubs.ModelServerServiceStub(channel).Frames())
        opened = await stream.open(replica, **opening)
        assert opened.opened.replica_id == replica.launch["replica_id"]
        try:
            yield stream
        finally:
            stream.cancel()  # closing a channel does not end a call that nobody waits for
