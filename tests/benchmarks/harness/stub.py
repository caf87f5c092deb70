"""A stub upstream: one process that is every replica of every revision and answers frames with fixed bytes.

    python -m harness.stub <features>

With it the gateway's own cost can be seen however many models and replicas there are. It prints its port.
"""

from __future__ import annotations

import asyncio
import signal
import struct
import sys
from pathlib import Path
from typing import Any

import grpc

from .processes import Process

SERVICE = "phantom.modelserver.v1.ModelServerService"
SCORE = 0.5
HERE = Path(__file__).parents[1]


class Stub:
    """The process, for whoever starts it."""

    def __init__(self, features: int, folder: Path) -> None:
        argv = [sys.executable, "-m", "harness.stub", str(features)]
        self._process = Process(argv, folder / "stub.log", cwd=HERE, talks=True)
        self.address = f"127.0.0.1:{int(self._process.hear())}"
        self.pid = self._process.pid

    def stop(self) -> None:
        """End it."""
        self._process.stop()


def response() -> bytes:
    """Label, two probabilities and a score, as a classifier's."""
    from inference import grpc_service_pb2 as oip

    answer = oip.ModelInferResponse(model_name="bench", model_version="1", id="request-1234567")
    for name, shape in (("label", [1]), ("probabilities", [1, 2]), ("score", [1])):
        answer.outputs.add(name=name, datatype="FP32", shape=shape)
        answer.raw_output_contents.append(struct.pack(f"<{shape[-1]}f", *[SCORE] * shape[-1]))
    return bytes(answer.SerializeToString())


def answerer(features: int) -> Any:
    """Raw FramesRequest → raw FramesResponse."""
    from phantom.modelserver.v1 import model_server_service_pb2 as pb
    from phantom.predictions.v1 import prediction_batch_pb2 as predictions

    answer = response()

    def answered(raw: bytes) -> bytes:
        message = pb.FramesRequest.FromString(raw)
        if message.WhichOneof("message") == "open":
            asked = message.open
            opened = pb.Opened(
                replica_id=asked.replica_id, revision=asked.revision, schema_version=asked.schema_version
            )
            return bytes(pb.FramesResponse(opened=opened).SerializeToString())
        count = len(message.frame.requests)
        frame = pb.AnswerFrame(sequence=message.frame.sequence, responses=[answer] * count)
        block = predictions.Block(rows=count, numbers=bytes(4 * features * count), number_width=4)
        packed = pb.PackedBlock(block=block.SerializeToString(), calls=range(count))
        packed.row_offsets.extend([0] * count)
        packed.rows.extend([1] * count)
        frame.blocks.append(packed)
        return bytes(pb.FramesResponse(frame=frame).SerializeToString())

    return answered


async def serve(features: int) -> None:
    """Until SIGTERM."""
    answered = answerer(features)

    async def frames(requests: object, context: Any) -> None:
        while (raw := await context.read()) is not grpc.aio.EOF:
            await context.write(answered(raw))

    server = grpc.aio.server(options=[("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", -1)])
    handler = grpc.stream_stream_rpc_method_handler(frames)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"Frames": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    asked = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asked.set)
    await asked.wait()
    await server.stop(None)


if __name__ == "__main__":
    import uvloop

    uvloop.run(serve(int(sys.argv[1])))
