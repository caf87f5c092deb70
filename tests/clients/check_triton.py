"""Runs in tritonclient's own environment: health, metadata, infer and stream, by gRPC and HTTP.

Arguments: gRPC address, HTTP address, endpoint with columns `amount` and `hour`, endpoint with `amount` and the
category `channel`. Prints one JSON object of what came back.
"""

from __future__ import annotations

import json
import queue
import sys

import numpy as np
import tritonclient.grpc as by_grpc
import tritonclient.http as by_http
from tritonclient.utils import InferenceServerException

GRPC, HTTP, NUMERIC, MIXED = sys.argv[1:5]
ROWS = np.array([[0.1, 0.3], [0.9, 0.7]])


def tensors(kind, datatype="FP64", **how):
    """The two rows as one tensor of that client's kind."""
    tensor = kind.InferInput("features", list(ROWS.shape), datatype)
    tensor.set_data_from_numpy(ROWS.astype(np.float32 if datatype == "FP32" else np.float64), **how)
    return [tensor]


def texts(kind):
    """A number and a category."""
    amount = kind.InferInput("amount", [2, 1], "FP64")
    amount.set_data_from_numpy(ROWS[:, :1])
    channel = kind.InferInput("channel", [2, 1], "BYTES")
    channel.set_data_from_numpy(np.array([["web"], ["shop"]], dtype=object))
    return [amount, channel]


def answer_of(result):
    """Labels and scores."""
    return {
        # Bytes from binary data, texts from JSON.
        "labels": [
            text.decode() if isinstance(text, bytes) else text for text in result.as_numpy("label").ravel()
        ],
        "scores": result.as_numpy("score").astype(float).round(5).ravel().tolist(),
        "probabilities": list(result.as_numpy("probabilities").shape),
    }


def common(client):
    """What both clients call by the same names."""
    found = {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "model_ready": client.is_model_ready(NUMERIC),
        "version_ready": client.is_model_ready(NUMERIC, "1.0.0"),
        "nothing_ready": client.is_model_ready("nothing"),
    }
    try:
        client.infer("nothing", tensors(by_grpc if client is grpc_client else by_http))
    except InferenceServerException as error:
        found["unknown"] = [error.status(), error.message()]
    return found


def streamed():
    """Ten requests on one stream, the fifth of them wrong."""
    answers: queue.Queue = queue.Queue()
    grpc_client.start_stream(lambda result, error: answers.put((result, error)))
    for number in range(10):
        name = "nothing" if number == 4 else NUMERIC
        grpc_client.async_stream_infer(
            name,
            tensors(by_grpc),
            request_id=str(number),
            parameters={"user_id": f"u{number}"},
            enable_empty_final_response=True,
        )
    found = [answers.get(timeout=20) for _ in range(10)]
    grpc_client.stop_stream()
    served = [result for result, error in found if error is None]
    return {
        "ids": sorted(result.get_response().id for result in served),
        "answers": next(answer_of(result) for result in served),
        "final": all(
            result.get_response().parameters["triton_final_response"].bool_param for result in served
        ),
        "errors": [error.message() for _, error in found if error is not None],
    }


grpc_client = by_grpc.InferenceServerClient(GRPC)
http_client = by_http.InferenceServerClient(HTTP, concurrency=2)
metadata = grpc_client.get_model_metadata(NUMERIC)
report = {
    "grpc": common(grpc_client)
    | {
        "server": grpc_client.get_server_metadata().name,
        "inputs": [[t.name, t.datatype, list(t.shape)] for t in metadata.inputs],
        "raw": answer_of(
            grpc_client.infer(NUMERIC, tensors(by_grpc), request_id="r1", parameters={"user_id": "u"})
        ),
        "fp32": answer_of(grpc_client.infer(NUMERIC, tensors(by_grpc, "FP32"))),
        "pinned": answer_of(grpc_client.infer(NUMERIC, tensors(by_grpc), model_version="1.0.0")),
        "texts": answer_of(grpc_client.infer(MIXED, texts(by_grpc))),
        "one_output": [
            output.name
            for output in grpc_client.infer(
                NUMERIC, tensors(by_grpc), outputs=[by_grpc.InferRequestedOutput("score")]
            )
            .get_response()
            .outputs
        ],
        "stream": streamed(),
    },
    "http": common(http_client)
    | {
        "server": http_client.get_server_metadata()["name"],
        "extensions": http_client.get_server_metadata()["extensions"],
        "inputs": [
            [t["name"], t["datatype"], t["shape"]] for t in http_client.get_model_metadata(NUMERIC)["inputs"]
        ],
        "binary": answer_of(http_client.infer(NUMERIC, tensors(by_http), request_id="r2")),
        "json": answer_of(
            http_client.infer(
                NUMERIC,
                tensors(by_http, binary_data=False),
                outputs=[
                    by_http.InferRequestedOutput(name, binary_data=False)
                    for name in ("label", "score", "probabilities")
                ],
            )
        ),
        "texts": answer_of(http_client.infer(MIXED, texts(by_http))),
        "compressed": answer_of(
            http_client.infer(NUMERIC, tensors(by_http), request_compression_algorithm="gzip")
        ),
        "parallel": [
            answer_of(call.get_result())
            for call in [http_client.async_infer(NUMERIC, tensors(by_http)) for _ in range(4)]
        ],
    },
}
sys.stdout.write(json.dumps(report) + "\n")
