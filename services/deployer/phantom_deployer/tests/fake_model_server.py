"""A model server without a model: lock, replica file, Describe and Drain. The artifact's file name says how it behaves.

`corrupt.json` fails for good, `busy.json` for now, `slow.json` never gets ready, `silent.json` never answers Drain.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import os
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc

from phantom.modelserver.v1 import model_server_service_pb2 as pb
from phantom.modelserver.v1 import model_server_service_pb2_grpc as stubs
from phantom_contracts.launch import EXIT_FAILED, EXIT_LOCKED, EXIT_RETRY, LaunchFile, ReplicaFile


class Server(stubs.ModelServerServiceServicer):
    def __init__(self, launch: LaunchFile) -> None:
        self.launch = launch
        self.stopping = asyncio.Event()

    async def Describe(self, request: Any, context: Any) -> pb.DescribeResponse:
        return pb.DescribeResponse(
            replica_id=self.launch.replica_id,
            revision=self.launch.revision,
            digest=self.launch.artifact.digest,
            state="draining" if self.stopping.is_set() else "ready",
            pid=os.getpid(),
        )

    async def Drain(self, request: Any, context: Any) -> pb.DrainResponse:
        if request.drain_key != self.launch.drain_key:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "not the drain key")
        folder = self.launch.replica_path.parent
        (folder / f"{self.launch.replica_id}.drained").write_bytes(request.route_record)
        if self.launch.artifact.file_name != "silent.json":
            self.stopping.set()
        return pb.DrainResponse()


def say(launch: LaunchFile, state: str, **fields: Any) -> None:
    file = ReplicaFile(
        replica_id=launch.replica_id,
        launch_id=launch.launch_id,
        revision=launch.revision,
        digest=launch.artifact.digest,
        state=state,  # type: ignore[arg-type]
        pid=os.getpid(),
        started_at=datetime.now(UTC),
        **fields,
    )
    new = launch.replica_path.with_suffix(".new")
    new.write_text(file.model_dump_json())
    new.replace(launch.replica_path)


async def serve(launch: LaunchFile) -> int:
    service = Server(launch)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, service.stopping.set)
    if launch.artifact.file_name == "slow.json":
        await service.stopping.wait()
        return 0
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    stubs.add_ModelServerServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    say(launch, "ready", address=f"127.0.0.1:{port}")
    await service.stopping.wait()
    await asyncio.sleep(0.3)
    await server.stop(0)
    say(launch, "stopped")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--launch", type=Path)
    launch = LaunchFile.model_validate_json(parser.parse_args().launch.read_bytes())
    lock = launch.lock_path.open("ab")
    for attempt in range(20):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if attempt == 19:
                return EXIT_LOCKED
            time.sleep(0.05)
    lock.truncate(0)
    lock.write(b"%d\n" % os.getpid())
    lock.flush()
    name = launch.artifact.file_name
    if name == "corrupt.json":
        say(launch, "failed", error_code="corrupt_model", error_message="not a model")
        return EXIT_FAILED
    if name == "busy.json":
        say(launch, "failed", error_code="registry_unavailable", error_message="nobody there")
        return EXIT_RETRY
    return asyncio.run(serve(launch))


if __name__ == "__main__":
    sys.exit(main())
