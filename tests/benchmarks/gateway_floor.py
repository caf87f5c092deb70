"""How close the gateway comes to a bare grpc.aio echo server: rates and CPU at 32 calls in flight.

    python tests/benchmarks/gateway_floor.py            # echo and gateway, alternating, medians
    python tests/benchmarks/gateway_floor.py --replicas 1  # calls come twice as fast on the stream
    python tests/benchmarks/gateway_floor.py --profile  # where the gateway's time goes

Load generator, gateway and model server are processes of their own. The generator has 16 connections (contracts
§11). The model server answers every frame with a fixed answer: what is measured is the gateway. Its prediction log
runs, without Kafka: batches are encoded and spilled. On a shared machine read ratios and CPU, not rates.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import json
import os
import pstats
import random
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import grpc
import uvloop

ECHO, INFER = "/echo.Echo/Echo", "/inference.GRPCInferenceService/ModelInfer"
HEADERS = (
    ("phantom-prediction-id", "0197b2c4-0000-7000-8000-000000000000"),
    ("phantom-revision", "flights-prod.1"),
    ("phantom-variant", "control"),
    ("phantom-route-version", "1"),
)
CONNECTIONS = 16


def say(what: object) -> None:
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


def request_body() -> bytes:
    """One row of 45 floats, with a unit."""
    from inference import grpc_service_pb2 as oip

    request = oip.ModelInferRequest(model_name="flights-prod", id="flight-1234567")
    request.parameters["tail_number"].string_param = "N14228"
    request.inputs.add(name="features", datatype="FP32", shape=[1, 45])
    request.raw_input_contents.append(struct.pack("<45f", *range(45)))
    body: bytes = request.SerializeToString()
    return body


def response_body() -> bytes:
    """Label, two probabilities and a score."""
    from inference import grpc_service_pb2 as oip

    response = oip.ModelInferResponse(model_name="flights-prod", model_version="1.0.0", id="flight-1234567")
    for name, shape in (("label", [1]), ("probabilities", [1, 2]), ("score", [1])):
        response.outputs.add(name=name, datatype="FP32", shape=shape)
        response.raw_output_contents.append(bytes(4 * shape[-1]))
    body: bytes = response.SerializeToString()
    return body


# -- processes -----------------------------------------------------------------------------------------------


async def serve_echo(with_headers: bool) -> None:
    answer = response_body()

    async def plain(body: bytes, context: grpc.aio.ServicerContext) -> bytes:
        return answer

    async def headed(body: bytes, context: grpc.aio.ServicerContext) -> bytes:
        await context.send_initial_metadata(HEADERS)
        return answer

    handler = grpc.unary_unary_rpc_method_handler(headed if with_headers else plain)
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("echo.Echo", {"Echo": handler}),))
    await _listen(server)


async def serve_model() -> None:
    from phantom.modelserver.v1 import model_server_service_pb2 as pb
    from phantom.predictions.v1 import prediction_batch_pb2 as predictions

    answer = response_body()

    def settled(raw: bytes) -> bytes:
        message = pb.FramesRequest.FromString(raw)
        if message.WhichOneof("message") == "open":
            opened = pb.Opened(replica_id=message.open.replica_id, revision=message.open.revision)
            return pb.FramesResponse(opened=opened).SerializeToString()
        count = len(message.frame.requests)
        frame = pb.AnswerFrame(sequence=message.frame.sequence, responses=[answer] * count)
        block = predictions.Block(rows=count, numbers=bytes(4 * 45 * count), number_width=4)
        packed = pb.PackedBlock(block=block.SerializeToString(), calls=range(count))
        packed.row_offsets.extend([0] * count)
        packed.rows.extend([1] * count)
        frame.blocks.append(packed)
        return pb.FramesResponse(frame=frame).SerializeToString()

    async def frames(requests: object, context: grpc.aio.ServicerContext) -> None:
        while (raw := await context.read()) is not grpc.aio.EOF:
            await context.write(settled(raw))

    handler = grpc.stream_stream_rpc_method_handler(frames)
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    service = "phantom.modelserver.v1.ModelServerService"
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"Frames": handler}),))
    await _listen(server)


async def serve_gateway(model_port: int, folder: Path, replica_count: int) -> None:
    from phantom_contracts.events.deployer import Replica, RouteRecord, RouteRevision
    from phantom_contracts.schema import Column, EndpointSchema
    from phantom_inference_gateway.access import Access
    from phantom_inference_gateway.grpc_server import InferenceServer
    from phantom_inference_gateway.ids import IdMint
    from phantom_inference_gateway.metrics import GatewayMetrics
    from phantom_inference_gateway.pool import Pool
    from phantom_inference_gateway.prediction_log import PredictionLog
    from phantom_inference_gateway.routes import Routes
    from phantom_inference_gateway.service import Gateway, Source
    from phantom_inference_gateway.upstreams import StreamRule
    from phantom_platform.clock import SystemClock
    from phantom_platform.identity.keys import KeySet
    from phantom_platform.identity.tokens import TokenVerifier

    replicas = tuple(Replica(id=f"r{n}", address=f"127.0.0.1:{model_port}") for n in range(replica_count))
    record = RouteRecord(
        version=1,
        endpoint="flights-prod",
        endpoint_schema=EndpointSchema(columns=tuple(Column(name=f"c{n}") for n in range(45))),
        hash_field="tail_number",
        salt="s",
        arms={"control": "flights-prod.1"},
        revisions=(
            RouteRevision(id="flights-prod.1", model_id="flights", model_version="1.0.0", replicas=replicas),
        ),
    )
    from phantom_platform.telemetry import logs

    logs.configure("benchmark", "ERROR", sys.stderr)
    pool, metrics = Pool("boot", StreamRule(), random.random), GatewayMetrics()
    log = PredictionLog("127.0.0.1:1", folder / "0" / "spill")
    routes = Routes(pool, log.set_routed)
    access = Access(TokenVerifier(KeySet(), SystemClock()), is_required=False)
    gateway = Gateway(routes, access, log, metrics, Source(IdMint(), random.randrange))
    server = InferenceServer(gateway, "127.0.0.1", 0, refused=metrics.refuse, unready=dict)
    for part in (log, pool):
        await part.start()
    routes.route_changed("default/flights-prod", record, 1)
    await routes.settled()
    await server.start()
    say(server.port)
    await _asked_to_stop()
    frames, calls = pool.frames()
    sys.stderr.write(f"calls a frame: {calls / frames:.1f}\n")
    for part in (server, pool, log):
        await part.stop()


async def _listen(server: grpc.aio.Server) -> None:
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    say(port)
    await _asked_to_stop()
    await server.stop(None)


async def _asked_to_stop() -> None:
    asked, loop = asyncio.Event(), asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, asked.set)
    loop.add_reader(sys.stdin.fileno(), asked.set)  # its end: the orchestrator has died
    await asked.wait()
    loop.remove_reader(sys.stdin.fileno())


async def generate(port: int, path: str, calls: int, in_flight: int) -> None:
    body = request_body()
    options = [("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) for _ in range(CONNECTIONS)]
    methods = [channel.unary_unary(path) for channel in channels]
    times: list[float] = []

    async def worker(number: int, count: int, keep: bool) -> None:
        method = methods[number % CONNECTIONS]
        for _ in range(count):
            started = time.perf_counter()
            await method(body)
            if keep:
                times.append(time.perf_counter() - started)

    await asyncio.gather(*(worker(n, 30, False) for n in range(in_flight)))
    say("warm")
    sys.stdin.readline()
    cpu, started = time.process_time(), time.perf_counter()
    await asyncio.gather(*(worker(n, calls // in_flight, True) for n in range(in_flight)))
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    times.sort()
    figures = {
        "rate": len(times) / seconds,
        "p50_ms": 1e3 * times[len(times) // 2],
        "client_us": 1e6 * cpu / len(times),
    }
    say(json.dumps(figures))


# -- orchestration -------------------------------------------------------------------------------------------


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, __file__, *arguments], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    )


def port_of(process: subprocess.Popen[str]) -> int:
    assert process.stdout is not None
    return int(process.stdout.readline())


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(port: int, path: str, calls: int, in_flight: int, servers: dict[str, int]) -> dict[str, float]:
    load = start("load", str(port), path, str(calls), str(in_flight))
    assert load.stdout is not None
    assert load.stdin is not None
    load.stdout.readline()
    before = {name: cpu_s(pid) for name, pid in servers.items()}
    load.stdin.write("\n")
    load.stdin.flush()
    figures: dict[str, float] = json.loads(load.stdout.readline())
    for name, pid in servers.items():
        figures[f"{name}_us"] = 1e6 * (cpu_s(pid) - before[name]) / calls
    load.wait()
    return figures


def compare(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        echo, headed, model = start("echo"), start("echo-headers"), start("model")
        model_port = port_of(model)
        gateway = start(
            "gateway",
            str(model_port),
            folder,
            str(options.replicas),
            *(["--profile"] if options.profile else []),
        )
        kinds = {
            "echo": (port_of(echo), ECHO, {"server": echo.pid}),
            "echo+headers": (port_of(headed), ECHO, {"server": headed.pid}),
            "gateway": (port_of(gateway), INFER, {"server": gateway.pid, "model": model.pid}),
        }
        if options.profile:
            del kinds["echo"], kinds["echo+headers"]
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in kinds}
        for _ in range(options.rounds):
            for name, (port, path, servers) in kinds.items():
                runs[name].append(measure(port, path, options.calls, options.in_flight, servers))
        for process in (gateway, echo, headed, model):
            process.terminate()
        for process in (gateway, echo, headed, model):
            process.wait(30)
    show(runs)


def show(runs: dict[str, list[dict[str, float]]]) -> None:
    medians = {
        name: {key: statistics.median(run[key] for run in each) for key in each[0]}
        for name, each in runs.items()
    }
    for name, figures in medians.items():
        say(f"{name:14}" + "  ".join(f"{key} {value:9.1f}" for key, value in figures.items()))
    if "echo" in medians:
        ratios = [a["rate"] / b["rate"] for a, b in zip(runs["gateway"], runs["echo"], strict=True)]
        say(
            f"gateway / echo: {statistics.median(ratios):.2f} of its rate ({min(ratios):.2f} to {max(ratios):.2f})"
        )


def run_gateway(model_port: int, folder: Path, replica_count: int, is_profiled: bool) -> None:
    if not is_profiled:
        uvloop.run(serve_gateway(model_port, folder, replica_count))
        return
    profile = cProfile.Profile()
    profile.runcall(uvloop.run, serve_gateway(model_port, folder, replica_count))
    pstats.Stats(profile, stream=sys.stderr).sort_stats("tottime").print_stats(35)


def main() -> None:
    match sys.argv[1:]:
        case ["echo"]:
            uvloop.run(serve_echo(False))
        case ["echo-headers"]:
            uvloop.run(serve_echo(True))
        case ["model"]:
            uvloop.run(serve_model())
        case ["gateway", port, folder, replicas, *rest]:
            run_gateway(int(port), Path(folder), int(replicas), bool(rest))
        case ["load", port, path, calls, in_flight]:
            uvloop.run(generate(int(port), path, int(calls), int(in_flight)))
        case _:
            parser = argparse.ArgumentParser(description=__doc__)
            parser.add_argument("--calls", type=int, default=20_000)
            parser.add_argument("--in-flight", type=int, default=32)
            parser.add_argument("--rounds", type=int, default=3)
            parser.add_argument("--replicas", type=int, default=2, help="streams that share the calls")
            parser.add_argument("--profile", action="store_true")
            compare(parser.parse_args())


if __name__ == "__main__":
    main()
