"""Several workers behind one set of ports: real processes, a real Kafka."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
import uuid
from collections import Counter
from contextlib import asynccontextmanager

import grpc
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from inference import grpc_service_pb2 as oip
from inference import grpc_service_pb2_grpc as oip_grpc
from phantom.predictions.v1 import prediction_batch_pb2 as predictions
from phantom_contracts import topics
from phantom_inference_gateway.tests import fakes
from phantom_inference_gateway.tests.fakes import FakeModelServer
from phantom_inference_gateway.tests.kafka_sides import deployer, records

pytestmark = pytest.mark.integration
OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_reconnect_backoff_ms", 500)]
SOON_S = 5.0


class Group:
    """The process that `python -m phantom_inference_gateway` becomes, and what it says."""

    def __init__(self, bootstrap, data_dir, **settings):
        data_dir.mkdir(exist_ok=True)
        self.log = data_dir / "log"
        told = {"grpc_port": 0, "http_port": 0, "metrics_port": 0, "workers": 2, **settings}
        env = {f"PHANTOM_GATEWAY_{name.upper()}": str(value) for name, value in told.items()}
        env |= {"PHANTOM_KAFKA_BOOTSTRAP": bootstrap, "PHANTOM_DATA_DIR": str(data_dir / "data")}
        with self.log.open("a") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "phantom_inference_gateway"],
                env=os.environ | env,
                stdout=out,
                stderr=out,
            )

    def said(self, action, **fields):
        """Lines of the log with this action."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [
            line
            for line in lines
            if line.get("action") == action and all(line.get(key) == value for key, value in fields.items())
        ]

    async def started(self):
        await holds(lambda: self.said("ready", worker=None) or self.process.poll() is not None, 60)
        assert self.process.poll() is None, self.log.read_text()
        return self

    @property
    def grpc(self):
        return self.said("port_reserved", door="gRPC")[0]["port"]

    @property
    def rest(self):
        return self.said("port_reserved", door="REST")[0]["port"]

    @property
    def metrics_port(self):
        return int(self.said("metrics_listening")[0]["address"].rpartition(":")[2])

    @property
    def workers(self):
        return psutil.Process(self.process.pid).children()

    def connections(self):
        """Of clients, by worker's pid."""
        return {
            worker.pid: sum(
                each.status == psutil.CONN_ESTABLISHED and each.laddr.port == self.grpc
                for each in worker.net_connections("tcp")
            )
            for worker in self.workers
        }

    async def get(self, path, port=None):
        """Over a connection of its own."""
        url = f"http://127.0.0.1:{port or self.metrics_port}{path}"

        def ask():
            try:
                with urllib.request.urlopen(url, timeout=5) as answer:
                    return answer.status, answer.read().decode()
            except urllib.error.HTTPError as error:
                return error.code, error.read().decode()

        return await asyncio.to_thread(ask)

    async def counted(self, name):
        """A counter or gauge, whatever its labels."""
        status, text = await self.get("/metrics")
        assert status == 200
        samples = [each for family in text_string_to_metric_families(text) for each in family.samples]
        return sum(each.value for each in samples if each.name == name)

    async def counts(self, name, value):
        """Wait until it is so much: on a busy machine a worker may miss a reading."""
        async with asyncio.timeout(20):
            while (found := await self.counted(name)) != value:
                assert not name.endswith("_total") or found <= value

    async def exit_code(self):
        return await asyncio.to_thread(self.process.wait, 40)

    def end(self):
        """However it is: nothing of it is left."""
        try:
            tree = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            tree = []
        self.process.kill()
        self.process.wait()
        for each in tree:
            try:
                each.kill()
            except psutil.NoSuchProcess:
                continue


async def holds(condition, within_s=20.0):
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110 - another process changes it
            await asyncio.sleep(0.02)


@asynccontextmanager
async def group(bootstrap, data_dir, **settings):
    made = Group(bootstrap, data_dir, **settings)
    try:
        yield await made.started()
    except BaseException:
        sys.stderr.write(made.log.read_text())  # shown where the test fails
        raise
    finally:
        made.end()


@asynccontextmanager
async def routed(bootstrap):
    """A model server and the endpoint that it serves; names of its own, since topics outlive a test."""
    server = await FakeModelServer("r1", "f.1").start()
    endpoint = f"f-{uuid.uuid4().hex[:8]}"
    async with deployer(bootstrap) as publish:
        await publish(fakes.route(("f.1", [server]), endpoint=endpoint, aliases=()))
    try:
        yield server, endpoint
    finally:
        server.answers.set()
        await server.kill()


class Clients:
    """So many clients, each on a connection of its own; `answered` has request ids, `errors` statuses."""

    def __init__(self, port, endpoint, count=24):
        self._endpoint = endpoint
        self._channels = [
            grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=OWN_CONNECTION) for _ in range(count)
        ]
        self._stubs = [oip_grpc.GRPCInferenceServiceStub(channel) for channel in self._channels]
        self._ids = 0
        self.answered, self.errors, self.slowest_s = [], Counter(), 0.0
        # Clients that had an error, and what they were told at last and when.
        self.troubled, self.last_error, self.last_error_s = set(), "", 0.0
        self._going = asyncio.Event()

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        self._going.clear()
        for channel in self._channels:
            await channel.close()

    def __len__(self):
        return len(self._stubs)

    async def once(self):
        """One call each."""
        await asyncio.gather(*(self._call(stub) for stub in self._stubs))

    @asynccontextmanager
    async def calling(self):
        """Calls without end."""
        self._going.set()
        tasks = [asyncio.create_task(self._go_on(stub)) for stub in self._stubs]
        try:
            yield
        finally:
            self._going.clear()
            async with asyncio.timeout(20):
                await asyncio.gather(*tasks)

    async def _go_on(self, stub):
        while self._going.is_set():
            await self._call(stub)
            await asyncio.sleep(0.02)  # there is to be work, not a race for the processor

    async def _call(self, stub):
        self._ids += 1
        request_id, started = f"{self._endpoint}-{self._ids}", time.monotonic()
        try:
            await stub.ModelInfer(oip.ModelInferRequest(model_name=self._endpoint, id=request_id), timeout=15)
        except grpc.aio.AioRpcError as error:
            self.errors[error.code()] += 1
            self.troubled.add(stub)
            self.last_error, self.last_error_s = error.debug_error_string(), time.monotonic()
            return
        finally:
            self.slowest_s = max(self.slowest_s, time.monotonic() - started)
        self.answered.append(request_id)


async def logged(bootstrap, endpoint, request_ids):
    """Which of these are in the prediction log: request id → boot ids that logged it, once it has them all."""
    found: dict[str, list[str]] = {}

    def has_all(messages):
        found.clear()
        # Other tests may have left under other keys what is no batch.
        ours = [each.value for each in messages if each.key.decode().endswith(endpoint)]
        for batch in map(predictions.PredictionBatch.FromString, ours):
            if batch.endpoint.endswith(endpoint):
                for each in batch.request_ids:
                    found.setdefault(each, []).append(batch.boot_id)
        return set(request_ids) <= set(found)

    await records(bootstrap, topics.PREDICTIONS, has_all)
    return found


async def test_workers_share_the_ports_and_are_summed(kafka_bootstrap, tmp_path):
    async with routed(kafka_bootstrap) as (server, endpoint), group(kafka_bootstrap, tmp_path) as made:
        # Any port was asked for: all have the same.
        assert len(made.said("grpc_listening")) == 2
        assert {each["port"] for each in made.said("grpc_listening")} == {made.grpc}
        assert {each["worker"] for each in made.said("grpc_listening")} == {"0-0", "0-1"}
        assert server.open_streams == 2
        status, body = await made.get("/ready")
        said = json.loads(body)
        assert (status, said["ready"], said["reasons"]) == (200, True, {})
        # Endpoints of other tests may want attention.
        assert not [
            each for each in said["attention"] if endpoint in each or not each.startswith("worker 0-")
        ]
        assert (await made.get("/health"))[0] == 200
        assert (await made.get("/nothing"))[0] == 404
        for _ in range(16):
            assert (await made.get(f"/v2/models/{endpoint}/ready", made.rest))[0] == 200
        async with Clients(made.grpc, endpoint) as clients:
            await clients.once()
            assert not clients.errors, clients.last_error
            connections = made.connections()
            assert len(connections) == 2
            assert all(connections.values())
            assert sum(connections.values()) == 24
        await made.counts("phantom_gateway_requests_total", 24)
        await made.counts("phantom_gateway_latency_seconds_count", 24)
        await made.counts("phantom_gateway_replicas_open", 2)
        await made.counts("phantom_gateway_worker_up", 2)
        found = await logged(kafka_bootstrap, endpoint, clients.answered)
        assert len({boot_id for boot_ids in found.values() for boot_id in boot_ids}) == 2
        memory = psutil.Process(made.process.pid).memory_full_info().pss / 1024**2
        assert memory < 40, f"the group's process has {memory:.0f} MB"


async def test_a_killed_worker_is_replaced_and_calls_go_on(kafka_bootstrap, tmp_path):
    async with (
        routed(kafka_bootstrap) as (_, endpoint),
        group(kafka_bootstrap, tmp_path) as made,
        Clients(made.grpc, endpoint) as clients,
        clients.calling(),
    ):
        await holds(lambda: len(clients.answered) > 200)
        before = await made.counted("phantom_gateway_requests_total")
        victim = made.workers[0]
        its_clients = made.connections()[victim.pid]
        victim.kill()
        killed_s = time.monotonic()
        readings = [before]
        async with asyncio.timeout(40):
            while not made.said("worker_died") or len(made.said("ready", worker="0-0")) < 2:
                readings.append(await made.counted("phantom_gateway_requests_total"))
                assert (await made.get("/ready"))[0] == 200
                await asyncio.sleep(0.1)
        assert readings == sorted(readings)
        assert victim.pid not in {each.pid for each in made.workers}
        assert made.said("worker_died")[0]["ending"] == "signal 9"
        # Only clients on its connections were troubled, for as long as they took to connect anew; none hung.
        assert set(clients.errors) <= {grpc.StatusCode.UNAVAILABLE}
        assert len(clients.troubled) <= its_clients
        assert clients.last_error_s - killed_s < SOON_S
        assert clients.slowest_s < SOON_S
        answered = len(clients.answered)
        await holds(lambda: len(clients.answered) > answered + 100)
        async with Clients(made.grpc, endpoint) as others:
            await others.once()
            assert not others.errors, others.last_error
            await holds(lambda: all(made.connections().values()))
        await made.counts("phantom_gateway_worker_starts_total", 3)


async def test_sigterm_loses_no_call_that_was_taken_and_no_record(kafka_bootstrap, tmp_path):
    async with (
        routed(kafka_bootstrap) as (server, endpoint),
        group(kafka_bootstrap, tmp_path) as made,
        Clients(made.grpc, endpoint) as clients,
    ):
        async with clients.calling():
            await holds(lambda: len(clients.answered) > 200)
        assert not clients.errors, clients.last_error
        server.answers.clear()
        held = asyncio.create_task(clients.once())
        await made.counts("phantom_gateway_in_flight", len(clients))
        made.process.send_signal(signal.SIGTERM)
        await holds(lambda: len(made.said("stop_asked")) == 3)
        server.answers.set()
        await held
        assert not clients.errors, clients.last_error
        assert await made.exit_code() == 0
        found = await logged(kafka_bootstrap, endpoint, clients.answered)
        assert all(len(boot_ids) == 1 for boot_ids in found.values())
        assert len(found) == len(clients.answered)
        assert {each["worker"] for each in made.said("stopped") if "worker" in each} == {"0-0", "0-1"}


async def test_sigterm_under_load_answers_or_refuses_each_call_and_logs_each_answer_once(
    kafka_bootstrap, tmp_path
):
    async with (
        routed(kafka_bootstrap) as (_, endpoint),
        group(kafka_bootstrap, tmp_path) as made,
        Clients(made.grpc, endpoint) as clients,
    ):
        async with clients.calling():
            await holds(lambda: len(clients.answered) > 200)
            made.process.send_signal(signal.SIGTERM)
            assert await made.exit_code() == 0
        assert set(clients.errors) <= {grpc.StatusCode.UNAVAILABLE}
        assert clients.slowest_s < SOON_S
        found = await logged(kafka_bootstrap, endpoint, clients.answered)
        assert all(len(boot_ids) == 1 for boot_ids in found.values())


async def test_a_worker_that_is_asked_to_stop_alone_loses_nothing_and_is_replaced(kafka_bootstrap, tmp_path):
    async with (
        routed(kafka_bootstrap) as (_, endpoint),
        group(kafka_bootstrap, tmp_path) as made,
        Clients(made.grpc, endpoint) as clients,
    ):
        async with clients.calling():
            await holds(lambda: len(clients.answered) > 200)
            made.workers[1].terminate()
            await holds(lambda: len(made.said("ready", worker="0-1")) == 2, 30)
        assert not clients.errors, clients.last_error
        # What it had counted to its last call is in the sum, although nobody had asked for long.
        await made.counts("phantom_gateway_requests_total", len(clients.answered))
        found = await logged(kafka_bootstrap, endpoint, clients.answered)
        assert all(len(boot_ids) == 1 for boot_ids in found.values())


async def test_a_second_group_on_the_port_is_refused_and_the_first_is_not_disturbed(
    kafka_bootstrap, tmp_path
):
    async with routed(kafka_bootstrap) as (_, endpoint), group(kafka_bootstrap, tmp_path / "one") as made:
        for workers in (1, 2):
            other = Group(
                kafka_bootstrap, tmp_path / f"other-{workers}", grpc_port=made.grpc, workers=workers
            )
            try:
                assert await other.exit_code() == 1
                assert (
                    "set PHANTOM_GATEWAY_GRPC_PORT to another port" in other.said("start_failed")[0]["error"]
                )
                assert not other.said("worker_started")
            finally:
                other.end()
        async with Clients(made.grpc, endpoint) as clients:
            await clients.once()
            assert not clients.errors, clients.last_error


async def test_workers_of_a_killed_group_finish_their_calls_and_end(kafka_bootstrap, tmp_path):
    async with (
        routed(kafka_bootstrap) as (server, endpoint),
        group(kafka_bootstrap, tmp_path) as made,
        Clients(made.grpc, endpoint) as clients,
    ):
        port, workers = made.grpc, made.workers
        server.answers.clear()
        held = asyncio.create_task(clients.once())
        await made.counts("phantom_gateway_in_flight", len(clients))
        made.process.kill()
        await holds(lambda: len(made.said("group_gone")) == 2)
        # While they end the port is theirs.
        other = Group(kafka_bootstrap, tmp_path / "other", grpc_port=port)
        assert await other.exit_code() == 1
        server.answers.set()
        await held
        assert not clients.errors, clients.last_error
        _, left = await asyncio.to_thread(psutil.wait_procs, workers, 20)
        assert not left
        assert len(made.said("stopped")) == 2
        async with group(kafka_bootstrap, tmp_path / "next", grpc_port=port) as again:
            assert again.grpc == port


async def test_a_second_sigterm_ends_everything_at_once(kafka_bootstrap, tmp_path):
    async with (
        routed(kafka_bootstrap) as (server, endpoint),
        group(kafka_bootstrap, tmp_path) as made,
        Clients(made.grpc, endpoint) as clients,
    ):
        workers = made.workers
        server.answers.clear()
        held = asyncio.create_task(clients.once())
        await made.counts("phantom_gateway_in_flight", len(clients))
        made.process.send_signal(signal.SIGTERM)
        await holds(lambda: len(made.said("stop_asked")) == 3)
        made.process.send_signal(signal.SIGTERM)
        assert await made.exit_code() == -signal.SIGKILL
        _, left = await asyncio.to_thread(psutil.wait_procs, workers, 10)
        assert not left
        await held


async def test_a_group_whose_workers_cannot_start_ends_with_what_they_said(tmp_path):
    (tmp_path / "data").write_text("no folder")
    made = Group("127.0.0.1:1", tmp_path)
    try:
        assert await made.exit_code() == 1
        assert "ended with exit code 1 before it served" in made.said("start_failed", worker=None)[0]["error"]
        assert made.said("start_failed", worker="0-0")
    finally:
        made.end()


async def test_sigterm_while_it_starts_leaves_nothing(tmp_path):
    made = Group("127.0.0.1:1", tmp_path, kafka_patience_s=30)
    try:
        await holds(lambda: len(made.said("worker_started")) == 2, 20)
        workers = made.workers
        made.process.send_signal(signal.SIGTERM)
        await made.exit_code()
        assert not any(each.is_running() for each in workers)
    finally:
        made.end()
