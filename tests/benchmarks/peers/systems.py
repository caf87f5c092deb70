"""Each peer as a system under test: what is configured, and where its documentation recommends it.

Every server has one process that predicts and one thread for it. `…-tuned` and `…-batched` have what their makers
recommend for throughput (batching, no log line for each request); the plain ones are what one gets by following the
documentation's first example. More in README.md.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from string import Template
from typing import Any

from harness import model
from harness.servers import Reference
from harness.system import CannotMeasure, Headers, System, bodies_of

from .peer import GrpcPeer, HttpPeer

HERE = Path(__file__).parent


class MLServer(GrpcPeer):
    """MLServer with its XGBoost runtime as shipped: a pool of one inference worker, request logs, metrics."""

    name = "mlserver"
    environment = "mlserver"
    output = "predict"
    settings: dict[str, Any] = {}  # noqa: RUF012
    model_settings: dict[str, Any] = {}  # noqa: RUF012

    def prepare(self, folder: Path, ports: list[int]) -> dict[str, str]:
        listen = dict(zip(("grpc_port", "http_port", "metrics_port"), ports, strict=True))
        settings = {"host": "127.0.0.1"} | listen | self.settings
        (folder / "settings.json").write_text(json.dumps(settings))
        given = json.loads((HERE / "mlserver" / "model-settings.json").read_text())
        (folder / "model-settings.json").write_text(json.dumps(given | self.model_settings))
        shutil.copy(model.file(), folder / "model.ubj")
        return {}

    def command(self, python: Path, ports: list[int]) -> list[str]:
        return [str(python.with_name("mlserver")), "start", "."]


class MLServerTuned(MLServer):
    """Without the pool (predictions in the server's own process), with adaptive batching, without request logs.

    Batches close at 32 requests, what is in flight in the comparison, or after 10 ms.
    """

    name = "mlserver-tuned"
    settings = {"parallel_workers": 0, "debug": False}  # noqa: RUF012
    model_settings = {"max_batch_size": 32, "max_batch_time": 0.01}  # noqa: RUF012


class KServe(GrpcPeer):
    """KServe's Python server over gRPC, one worker (its default); the log lines it has for each request are off."""

    name = "kserve"
    environment = "kserve"
    output = "output-0"

    def command(self, python: Path, ports: list[int]) -> list[str]:
        flags = {
            "--grpc_port": ports[0],
            "--http_port": ports[1],
            "--workers": 1,
            "--enable_latency_logging": "false",
        }
        return [
            str(python),
            str(HERE / "kserve" / "server.py"),
            *(str(x) for flag in flags.items() for x in flag),
        ]


class BentoML(HttpPeer):
    """BentoML's documented service: a function of an array, one worker."""

    name = "bentoml"
    environment = "bentoml"
    path = "/predict"
    key = "data"
    service = "Plain"

    def prepare(self, folder: Path, ports: list[int]) -> dict[str, str]:
        return {"BENTOML_DO_NOT_TRACK": "True", "BENTOML_HOME": str(folder / "bentoml")}

    def command(self, python: Path, ports: list[int]) -> list[str]:
        where = ["--working-dir", str(HERE / "bentoml"), "--host", "127.0.0.1", "--port", str(ports[0])]
        return [str(python.with_name("bentoml")), "serve", f"service:{self.service}", *where]


class BentoMLBatched(BentoML):
    """The same API with `batchable=True`: BentoML finds size and window itself. No access log, no metrics."""

    name = "bentoml-batched"
    service = "Batched"


class LitServe(HttpPeer):
    """LitServe's documented server: one API server process, one inference worker on the CPU."""

    name = "litserve"
    environment = "litserve"
    path = "/predict"
    key = "input"
    answer_key = "output"
    mode: tuple[str, ...] = ()

    def command(self, python: Path, ports: list[int]) -> list[str]:
        return [str(python), str(HERE / "litserve" / "server.py"), str(ports[0]), *self.mode]


class LitServeBatched(LitServe):
    """With its batching: up to 32 requests, up to 10 ms; no access log."""

    name = "litserve-batched"
    mode = ("batched",)


class RayServe(HttpPeer):
    """Ray Serve's documented deployment: one replica behind its HTTP proxy. The dashboard is off."""

    name = "ray-serve"
    environment = "ray_serve"
    path = "/"
    key = "rows"
    mode: tuple[str, ...] = ()
    start_limit_s = 120.0
    variables: dict[str, str] = {}  # noqa: RUF012

    def prepare(self, folder: Path, ports: list[int]) -> dict[str, str]:
        # Where clusters are off, Ray's own processes keep to 127.0.0.1 whatever the system is.
        return {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"} | self.variables

    def command(self, python: Path, ports: list[int]) -> list[str]:
        return [str(python), str(HERE / "ray_serve" / "server.py"), str(ports[0]), *self.mode]


class RayServeBatched(RayServe):
    """With `@serve.batch` (up to 32 requests, up to 10 ms) and its throughput-optimized mode; no access log.

    Its other recommendation, HAProxy in front, listens on every interface and cannot be told not to: left out.
    """

    name = "ray-serve-batched"
    mode = ("batched",)
    variables = {"RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"}  # noqa: RUF012


class Envoy(GrpcPeer):
    """Envoy before the benchmark's *direct* server, with a weighted experiment by hash of a header (`envoy.yaml`).

    One worker thread: with two cores and one upstream a second only takes time from it.
    """

    name = "envoy"
    environment = "envoy"
    headers: Headers = (("phantom-unit", "user-0000017"),)

    def __init__(self, direct: System) -> None:
        """`direct`: a gRPC system; it is started and stopped with Envoy, and gets Envoy's body as its own."""
        super().__init__()
        self._direct = direct
        self.body, self.body32 = direct.body, direct.body32
        self.bodies = bodies_of(direct, 1)

    def start(self) -> None:
        self._direct.start()
        try:
            super().start()
        except CannotMeasure:
            self._direct.stop()
            raise

    def prepare(self, folder: Path, ports: list[int]) -> dict[str, str]:
        upstream = self._direct.address.rsplit(":", 1)[1]
        template = Template((HERE / "envoy" / "envoy.yaml").read_text())
        (folder / "envoy.yaml").write_text(template.substitute(port=ports[0], upstream=upstream))
        return {}

    def command(self, python: Path, ports: list[int]) -> list[str]:
        flags = ["--concurrency", "1", "--disable-hot-restart", "--log-level", "warning"]
        return [str(python.with_name("envoy")), "-c", "envoy.yaml", *flags]

    def check(self, answer: bytes, rows: int = 1) -> None:
        self._direct.check(answer, rows)

    def parts(self) -> dict[str, list[int]]:
        """Its own processes and its upstream's."""
        return {"envoy": super().pids(), "direct": self._direct.pids()}

    def pids(self) -> list[int]:
        return [*super().pids(), *self._direct.pids()]

    def stop(self) -> None:
        super().stop()
        self._direct.stop()


def python_servers() -> list[System]:
    """The Python serving systems, as shipped and tuned."""
    return [
        MLServer(),
        MLServerTuned(),
        KServe(),
        BentoML(),
        BentoMLBatched(),
        LitServe(),
        LitServeBatched(),
        RayServe(),
        RayServeBatched(),
    ]


def all_peers(folder: Path) -> list[System]:
    """Every peer, not started. `folder`: where *direct*, behind Envoy, keeps its log."""
    return [*python_servers(), Envoy(Reference("direct", folder))]
