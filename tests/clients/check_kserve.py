"""Runs in KServe's own environment: its gRPC and REST (v2) clients, typed and raw, JSON and binary.

Arguments: gRPC address, HTTP address, endpoint with columns `amount` and `hour`, endpoint with `amount` and the
category `channel`. Prints one JSON object of what came back.
"""

from __future__ import annotations

import asyncio
import json
import sys

import grpc
import httpx
import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig

GRPC, HTTP, NUMERIC, MIXED = sys.argv[1:5]
ROWS = np.array([[0.1, 0.3], [0.9, 0.7]])


def raw(name):
    """From an array: raw bytes over gRPC, binary over REST."""
    tensor = InferInput("features", [2, 2], "FP64")
    tensor.set_data_from_numpy(ROWS, binary_data=True)
    return InferRequest(name, [tensor], request_id="raw")


def typed(name):
    """From lists: typed contents over gRPC, JSON over REST."""
    return InferRequest(name, [InferInput("features", [2, 2], "FP64", ROWS.ravel().tolist())])


def texts(name):
    """A number and a category."""
    return InferRequest(
        name,
        [
            InferInput("amount", [2, 1], "FP64", ROWS[:, 0].tolist()),
            InferInput("channel", [2, 1], "BYTES", ["web", "shop"]),
        ],
    )


def answer_of(response):
    """Labels and scores."""
    outputs = {output.name: output for output in response.outputs}
    labels = outputs["label"].as_numpy().ravel().tolist()
    return {
        "labels": [text.decode() if isinstance(text, bytes) else text for text in labels],
        "scores": np.array(outputs["score"].as_numpy(), float).round(5).ravel().tolist(),
        "probabilities": list(outputs["probabilities"].as_numpy().shape),
    }


async def by_grpc():
    async with InferenceGRPCClient(GRPC) as client:
        found = {
            "live": await client.is_server_live(),
            "ready": await client.is_server_ready(),
            "model_ready": await client.is_model_ready(NUMERIC),
            "nothing_ready": await client.is_model_ready("nothing"),
            "raw": answer_of(await client.infer(raw(NUMERIC))),
            "typed": answer_of(await client.infer(typed(NUMERIC))),
            "texts": answer_of(await client.infer(texts(MIXED))),
        }
        try:
            await client.infer(typed("nothing"))
        except grpc.RpcError as error:
            found["unknown"] = error.code().name
        return found


async def by_rest():
    client = InferenceRESTClient(RESTConfig(protocol="v2", timeout=20))
    base = f"http://{HTTP}"
    try:
        found = {
            "live": await client.is_server_live(base),
            "ready": await client.is_server_ready(base),
            "model_ready": await client.is_model_ready(base, NUMERIC),
            "binary": answer_of(await client.infer(base, raw(NUMERIC), model_name=NUMERIC)),
            "json": answer_of(await client.infer(base, typed(NUMERIC), model_name=NUMERIC)),
            "texts": answer_of(await client.infer(base, texts(MIXED), model_name=MIXED)),
        }
        try:
            await client.infer(base, typed("nothing"), model_name="nothing")
        except httpx.HTTPStatusError as error:
            found["unknown"] = error.response.status_code
        return found
    finally:
        await client.close()


async def main():
    report = {"grpc": await by_grpc(), "rest": await by_rest()}
    sys.stdout.write(json.dumps(report) + "\n")


asyncio.run(main())
