"""One life of a replica: lock, artifact, model, doors, drain. The exit code says whether another start may help."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import tempfile
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, AsyncExitStack, nullcontext
from datetime import UTC, datetime
from pathlib import Path

from aiohttp import web
from prometheus_client import CollectorRegistry

from phantom_contracts.launch import EXIT_FAILED, EXIT_LOCKED, EXIT_RETRY, LaunchFile, ReplicaFile
from phantom_model_server import artifacts, container, launch, rpc
from phantom_model_server.draining import Gate
from phantom_model_server.failures import of_artifact
from phantom_model_server.frames import Work
from phantom_model_server.metrics import Metrics
from phantom_model_server.service import ModelServer
from phantom_model_server.settings import ModelServerSettings
from phantom_platform import garbage
from phantom_platform.errors import Invalid, PhantomError, Refused, Unavailable
from phantom_platform.http2.server import Server
from phantom_platform.telemetry import logs
from phantom_platform.telemetry.http import MetricsServer
from phantom_runtimes import Invalid as InvalidModel
from phantom_runtimes import Model, load

log = logs.get(__name__)

TEMPORARY = frozenset(["registry_unavailable", "artifact_token_refused", "address_in_use"])
"""Codes of failures that another start may not meet again."""


def main(path: Path) -> int:
    """Serve what the launch file says until told to stop; returns the exit code."""
    return _served(lambda: serve(launch.read(path)))


def main_in_container(path: Path) -> int:
    """Serve what the image's file says until told to stop; returns the exit code."""
    with tempfile.TemporaryDirectory(prefix="phantom-model-server-") as scratch:
        return _served(lambda: serve(container.order(container.read(path), Path(scratch))))


def _served(serving: Callable[[], int]) -> int:
    try:
        return serving()
    except Invalid as error:
        logs.configure("model-server")
        log.critical("file refused", action="start_failed", code=error.code, error=str(error))
        return EXIT_FAILED


def serve(order: LaunchFile) -> int:
    """One life of a replica; the exit code."""
    import uvloop

    settings = ModelServerSettings()
    logs.configure("model-server", order.log_level)
    lock = launch.Lock(order.lock_path)
    try:
        lock.take()
    except Refused as error:
        log.error("already running", action="start_refused", code=error.code, error=str(error))
        return EXIT_LOCKED
    replica = Replica(order, settings)
    code = uvloop.run(replica.run())  # the lock is released when the process has exited
    if replica.is_overdue:
        logs.flush()
        os._exit(code)  # a thread that still runs the model would be waited for, however long it takes
    return code


class Replica:
    """Holds the lock already."""

    def __init__(self, order: LaunchFile, settings: ModelServerSettings) -> None:
        self._order = order
        self._settings = settings
        self._started_at = datetime.now(UTC)
        self._registry = CollectorRegistry()
        self._gate = Gate()
        self._digest = ""  # of the bytes as found
        self.is_overdue = False  # the drain took longer than it may

    async def run(self) -> int:
        self._heed_signals()
        async with AsyncExitStack() as stack:
            try:
                model = await self._unless_stopped(self._load())
                if model is None:
                    self._say("stopped")
                    return 0
                address, http_address = await self._listen(model, stack)
            except PhantomError as error:
                return self._failed(error)
            garbage.settle()
            self._say("ready", address=address, http_address=http_address)
            log.info("ready", action="ready", replica=self._order.replica_id, address=address)
            await self._gate.closed()
            if not await self._gate.idle():
                self.is_overdue = True
                log.warning(
                    "stopped with work open",
                    action="drain_timeout",
                    in_flight=self._gate.in_flight,
                    streams=self._gate.open_streams,
                )
        self._say("stopped")
        log.info("stopped", action="stopped", replica=self._order.replica_id)
        return 0

    async def _unless_stopped(self, loading: Coroutine[None, None, Model]) -> Model | None:
        """The model; None where the process was told to stop before it was there."""
        task, closed = asyncio.ensure_future(loading), asyncio.ensure_future(self._gate.closed())
        await asyncio.wait([task, closed], return_when=asyncio.FIRST_COMPLETED)
        closed.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait([task])
            return None
        return task.result()

    async def _load(self) -> Model:
        order = self._order
        path = await artifacts.find(order, self._settings.download_timeout_s)
        self._digest = order.artifact.digest
        try:
            model = load(
                path,
                order.artifact.framework,
                order.model_schema,
                threads=order.threads,
                allow_pickle=order.allow_pickle,
                runtime=order.runtime,
            )
        except InvalidModel as error:
            raise of_artifact(error) from error
        _give_back()
        choice = model.choice
        log.info("runtime chosen", action="runtime_chosen", onnx_rows=choice.rows, reason=choice.reason)
        return model

    async def _listen(self, model: Model, stack: AsyncExitStack) -> tuple[str, str]:
        order, settings = self._order, self._settings
        metrics = Metrics(self._registry)
        metrics.describe(order, model.runtime, model.choice)
        metrics.watch(lambda: self._gate.in_flight, lambda: self._gate.open_streams)
        pool = ThreadPoolExecutor(settings.workers, thread_name_prefix="predict")
        stack.callback(pool.shutdown, wait=False, cancel_futures=True)
        server = ModelServer(model, order.model_version, metrics)
        work = Work(server, order, self._gate, pool, settings.inline_bytes, _spans(order.otlp_endpoint))
        routes = _rest(work) if order.rest else ()
        http = MetricsServer(
            self._registry,
            order.host,
            order.http_port,
            self._unready,
            routes=routes,
            max_body=settings.max_request_bytes,
        )
        await http.start()
        stack.push_async_callback(http.stop)
        doors = Server(max_message=settings.max_request_bytes)
        doors.add_generic_rpc_handlers(tuple(rpc.handlers(work)))
        rpc.reflect(doors)
        try:
            port = doors.add_insecure_port(f"{order.host}:{order.port}")
        except RuntimeError as error:
            raise Refused(
                f"cannot listen on {order.host}:{order.port}: the address is in use or not this machine's",
                code="address_in_use",
            ) from error
        await doors.start()
        stack.push_async_callback(doors.stop, settings.stop_grace_s)
        return f"{order.host}:{port}", f"{order.host}:{http.port}"

    def _heed_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._gate.close, b"", self._order.drain_timeout_s)

    def _unready(self) -> dict[str, str]:
        return {"replica": "draining"} if self._gate.is_draining else {}

    def _failed(self, error: PhantomError) -> int:
        log.critical("did not start", action="start_failed", code=error.code, error=error.message)
        if error.code == "digest_mismatch":
            self._digest = f"sha256:{error.fields.get('found')}"
        self._say("failed", error_code=error.code, error_message=error.message)
        may_help = isinstance(error, Unavailable) or error.code in TEMPORARY
        return EXIT_RETRY if may_help else EXIT_FAILED

    def _say(self, state: str, **fields: str) -> None:
        order = self._order
        launch.write(
            order.replica_path,
            ReplicaFile.model_validate(
                {
                    "replica_id": order.replica_id,
                    "launch_id": order.launch_id,
                    "revision": order.revision,
                    "digest": self._digest,
                    "state": state,
                    "pid": os.getpid(),
                    "started_at": self._started_at,
                    **fields,
                }
            ),
        )


def _rest(work: Work) -> Sequence[web.RouteDef]:
    """Only where it is asked for: replicas behind a gateway have no use for it."""
    from phantom_model_server.rest import Rest

    return Rest(work).routes()


def _give_back() -> None:
    """Return what loading took and freed to the system, where its allocator can: about 6 MB a replica."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _spans(otlp_endpoint: str | None) -> Callable[[str, str], AbstractContextManager[object]]:
    """Makes spans where traces are exported, and nothing elsewhere: the module costs 10 MB."""
    if not otlp_endpoint:
        return lambda name, parent: nullcontext()
    from phantom_platform.telemetry import tracing

    tracing.configure("model-server", otlp_endpoint)
    return lambda name, parent: tracing.span(name, parent=tracing.extract(parent) if parent else None)
