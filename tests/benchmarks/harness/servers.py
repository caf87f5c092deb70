"""What ours is compared with: *floor*, a bare grpc.aio server that echoes bytes, and *direct*, the obvious server.

python -m harness.servers floor|direct <port> [<model file>]
"""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path
from typing import Any

import grpc

from . import model
from .processes import Process
from .system import INFER, CannotMeasure, Headers

HERE = Path(__file__).parents[1]
_OPTIONS = [("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", -1)]


class Reference:
    """`floor` or `direct` as a system under test."""

    protocol = "grpc"
    path = INFER
    headers: Headers = ()

    def __init__(self, kind: str, folder: Path) -> None:
        from phantom_local.embedded.process import free_port

        self.name = kind
        self.body, self.body32 = model.oip_request(1, unit="unit-000"), model.oip_request(32, unit="unit-000")
        self.bodies = tuple(model.oip_request(1, unit=f"unit-{number:03}") for number in range(256))
        self._port = free_port()
        self.address = f"127.0.0.1:{self._port}"
        self._log = folder / f"{kind}.log"
        self._process: Process | None = None

    def start(self) -> None:
        """Returns when it listens."""
        argv = [sys.executable, "-m", "harness.servers", self.name, str(self._port), str(model.file())]
        self._process = Process(argv, self._log, cwd=HERE, talks=True)
        if self._process.hear() != "listening":
            raise CannotMeasure(f"{self.name} does not listen: {self._process.tail()}")

    def pids(self) -> list[int]:
        return [self._process.pid] if self._process else []

    def check(self, answer: bytes, rows: int = 1) -> None:
        if self.name == "direct":
            model.check(model.oip_probabilities(answer, "probability"), rows)
        elif answer != (self.bodies[0] if rows == 1 else self.body32):
            raise CannotMeasure("the echo is not what was sent")

    def stop(self) -> None:
        if self._process is not None:
            self._process.stop()
            self._process = None


async def echo(body: bytes, context: Any) -> bytes:
    """The floor's handler."""
    return body


class Direct:
    """The obvious server: decode, predict, reply. No gateway, no routing, no log."""

    def __init__(self, file: str) -> None:
        import xgboost

        self._booster = xgboost.Booster({"nthread": 1}, model_file=file)

    async def ModelInfer(self, request: Any, context: Any) -> Any:
        """One prediction on the event loop: it takes less than handing it to a thread and back."""
        import numpy as np

        from inference import grpc_service_pb2 as oip

        tensor = request.inputs[0]
        rows = np.frombuffer(request.raw_input_contents[0], np.float32).reshape(tensor.shape)
        found = self._booster.inplace_predict(rows)
        answer = oip.ModelInferResponse(model_name=request.model_name, model_version="1", id=request.id)
        answer.outputs.add(name="probability", datatype="FP32", shape=[len(rows)])
        answer.raw_output_contents.append(found.tobytes())
        return answer


def handlers(kind: str, file: str) -> list[Any]:
    """What the server answers with."""
    if kind == "floor":
        method = grpc.unary_unary_rpc_method_handler(echo)
        service, name = INFER.strip("/").split("/")
        return [grpc.method_handlers_generic_handler(service, {name: method})]
    from inference import grpc_service_pb2 as oip

    method = grpc.unary_unary_rpc_method_handler(
        Direct(file).ModelInfer,
        request_deserializer=oip.ModelInferRequest.FromString,
        response_serializer=oip.ModelInferResponse.SerializeToString,
    )
    return [grpc.method_handlers_generic_handler("inference.GRPCInferenceService", {"ModelInfer": method})]


async def serve(kind: str, port: int, file: str) -> None:
    """Until SIGTERM."""
    server = grpc.aio.server(options=_OPTIONS)
    server.add_generic_rpc_handlers(tuple(handlers(kind, file)))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    sys.stdout.write("listening\n")
    sys.stdout.flush()
    asked = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asked.set)
    await asked.wait()
    await server.stop(None)


if __name__ == "__main__":
    import uvloop

    uvloop.run(serve(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
