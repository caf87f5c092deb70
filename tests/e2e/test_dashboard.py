"""Every query of the dashboard returns data from a real Prometheus that scrapes a real stack under traffic."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import numpy as np
import pytest
import xgboost

from phantom_contracts import topics
from phantom_contracts.events.upstream import OutcomeReported
from phantom_ml_studio import Client, Deployments, InferenceClient, ModelRegistry
from phantom_ml_studio.errors import PhantomError
from phantom_platform.kafka import Producer
from phantom_platform.testing import events

ROOT = Path(__file__).parents[2]
GRAFANA = ROOT / "deploy" / "grafana"
DASHBOARD = GRAFANA / "dashboards" / "phantom-overview.json"
PROMETHEUS = ROOT / "deploy" / "prometheus"
MODEL, ENDPOINT = "panels", "panels-prod"
DATA_WITHIN_S = 90.0


def load(path: Path) -> ModuleType:
    """A script as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def panel_queries() -> list[tuple[str, str]]:
    """(panel and query, PromQL) for each target, the variables chosen as a user would."""
    board = json.loads(DASHBOARD.read_text("utf-8"))
    chosen = {"$workspace": "default", "$endpoint": ENDPOINT, "$__rate_interval": "20s"}
    found = []
    for panel in board["panels"]:
        for target in panel.get("targets", ()):
            expression = target["expr"]
            for name, value in chosen.items():
                expression = expression.replace(name, value)
            found.append((f"{panel['title']} {target['refId']}", expression))
    return found


# -- the file ----------------------------------------------------------------------


def test_the_dashboard_file_is_what_the_code_makes() -> None:
    builder = load(GRAFANA / "build_dashboard.py")
    assert builder.build() == builder.build() == DASHBOARD.read_text("utf-8")
    assert builder.main(["--check"]) == 0


def test_the_check_fails_for_a_file_that_was_edited_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    builder = load(GRAFANA / "build_dashboard.py")
    edited = tmp_path / "phantom-overview.json"
    edited.write_text("{}")
    monkeypatch.setattr(builder, "TARGET", edited)
    assert builder.main(["--check"]) == 1
    assert edited.read_text() == "{}"
    assert "build_dashboard.py" in capsys.readouterr().err
    assert builder.main([]) == 0
    assert builder.main(["--check"]) == 0


def test_every_panel_has_a_title_a_text_a_place_of_its_own_and_a_query() -> None:
    panels = [each for each in json.loads(DASHBOARD.read_text("utf-8"))["panels"] if each["type"] != "row"]
    assert (
        len({each["title"] for each in panels}) == len({each["id"] for each in panels}) == len(panels) >= 20
    )
    assert len({(each["gridPos"]["x"], each["gridPos"]["y"]) for each in panels}) == len(panels)
    assert all(each["description"] and each["targets"] for each in panels)


def test_targets_without_a_stack_are_refused_with_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    writer = load(PROMETHEUS / "write_targets.py")
    assert writer.main(["--data-dir", str(tmp_path), "--output", str(tmp_path / "targets.json")]) == 1
    assert "phantom-ml-studio up" in capsys.readouterr().err
    assert not (tmp_path / "targets.json").exists()


# -- a stack and its Prometheus ----------------------------------------------------


@contextmanager
def local_stack(folder: Path) -> Iterator[Path]:
    """Everything, on free ports, from a data directory of its own."""
    ports = ("CONTROL_PORT", "METRICS_PORT", "GATEWAY_GRPC_PORT", "GATEWAY_HTTP_PORT", "GATEWAY_METRICS_PORT")
    environment = {**os.environ, **{f"PHANTOM_{each}": "0" for each in ports}}
    command = [sys.executable, "-m", "phantom_local"]
    where = ["--data-dir", str(folder)]
    try:
        done = subprocess.run(
            [*command, "up", "--detach", *where], env=environment, capture_output=True, text=True, timeout=150
        )
        assert done.returncode == 0, done.stdout + done.stderr
        yield folder
    finally:
        done = subprocess.run([*command, "down", *where], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr


def prometheus_binary() -> str:
    script = [str(ROOT / "tools" / "prometheus.sh")]
    found = subprocess.run(script, capture_output=True, text=True, timeout=120, check=True)
    return found.stdout.strip()


@asynccontextmanager
async def prometheus(binary: str, folder: Path, data_dir: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A Prometheus that scrapes the stack each second, and a client of its API."""
    configuration = (PROMETHEUS / "prometheus.yml").read_text("utf-8")
    configuration = re.sub(r"scrape_interval: \S+", "scrape_interval: 1s", configuration)
    configuration = re.sub(r"scrape_timeout: \S+", "scrape_timeout: 1s", configuration)
    (folder / "prometheus.yml").write_text(configuration)
    writer = load(PROMETHEUS / "write_targets.py")
    assert writer.main(["--data-dir", str(data_dir), "--output", str(folder / "targets.json")]) == 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    arguments = [f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"]
    with (folder / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            binary, *arguments, f"--web.listen-address={address}", stdout=log, stderr=log
        )
    try:
        async with httpx.AsyncClient(base_url=f"http://{address}", timeout=10) as client:
            await until_ready(client, process)
            yield client
    finally:
        process.terminate()
        await process.wait()


async def until_ready(client: httpx.AsyncClient, process: asyncio.subprocess.Process) -> None:
    async with asyncio.timeout(30):
        while process.returncode is None:
            try:
                if (await client.get("/-/ready")).is_success:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.1)
    pytest.fail("Prometheus ended")


async def values(client: httpx.AsyncClient, expression: str) -> list[tuple[dict[str, str], float]]:
    """(labels, value) now; NaN is no data."""
    answer = await client.get("/api/v1/query", params={"query": expression})
    assert answer.is_success, f"{expression}: {answer.text}"
    found = [(each["metric"], float(each["value"][1])) for each in answer.json()["data"]["result"]]
    return [(labels, value) for labels, value in found if not np.isnan(value)]


# -- traffic -----------------------------------------------------------------------


def tiny_model(path: Path, seed: int) -> None:
    """Two features, a label that follows the first."""
    random = np.random.default_rng(seed)
    features = random.uniform(size=(400, 2))
    labels = (features[:, 0] + 0.2 * random.uniform(size=400) > 0.6).astype(int)
    booster = xgboost.train(
        {"objective": "binary:logistic", "max_depth": 2, "seed": seed, "nthread": 1},
        xgboost.DMatrix(features, label=labels, feature_names=["amount", "hour"]),
        num_boost_round=5,
    )
    booster.save_model(path)


SCHEMA: dict[str, Any] = {
    "features": [{"name": "amount"}, {"name": "hour"}],
    "class_labels": ["legit", "fraud"],
    "outcome": {"field": "actual_fraud", "mapping": {"true": "fraud", "false": "legit"}},
}


@dataclass
class World:
    """A deployment with a candidate, and what a user does with it."""

    data_dir: Path
    stack: dict[str, Any]
    numbers: Iterator[int] = field(default_factory=count)

    def deploy(self, folder: Path) -> None:
        password = (self.data_dir / "secrets" / "admin-password").read_text().strip()
        client = Client.login("admin", password, self.stack["control_address"])
        registry, deployments = ModelRegistry(client), Deployments(client)
        for number, version in enumerate(("1.0.0", "1.1.0")):
            path = folder / f"{version}.json"
            tiny_model(path, number)
            if number == 0:
                registry.register_model(MODEL, path, metadata={"version": version}, schema=SCHEMA)
            else:
                registry.create_version(MODEL, version, path, schema=SCHEMA)
            made = deployments.deploy(MODEL, version, canary_percent=40.0 if number else 0.0)
            assert made.deployment_id == ENDPOINT
            deployments.wait_ready(ENDPOINT, timeout_s=60)
        client.close()

    def predict(self, client: InferenceClient) -> OutcomeReported:
        """One call, and what will be reported about it."""
        number = next(self.numbers)
        amount = (number % 100) / 100
        row = {"amount": amount, "hour": 0.5}
        client.predict(ENDPOINT, [row], unit=f"user-{number % 500}", request_id=f"panels-{number}")
        return OutcomeReported(
            endpoint=ENDPOINT,
            request_id=f"panels-{number}",
            event_time=datetime.now(UTC),
            label=amount > 0.55,
        )

    def err(self, client: InferenceClient) -> None:
        """Two calls that cannot be answered."""
        for endpoint, row in ((ENDPOINT, {"amount": 1.0, "undeclared": 2.0}), ("nothing", {"amount": 1.0})):
            with pytest.raises(PhantomError):
                client.predict(endpoint, [row])

    async def traffic(self) -> None:
        """Calls with outcomes, a mistake now and then, and garbage in two topics; until cancelled."""
        client = InferenceClient(self.stack["gateways"][0]["grpc"])
        producer = Producer(self.stack["kafka_bootstrap"], client_id="test-panels")
        await producer.start()
        try:
            await producer.send(topics.OUTCOMES.name, b"garbage", b"\xff not an outcome", [])
            await producer.send(topics.ROUTES.name, b"default/garbage", b"{", [])
            for turn in count():
                outcome = await asyncio.to_thread(self.predict, client)
                await events.publish(producer, events.record(topics.OUTCOMES, outcome.key, outcome))
                if turn % 20 == 0:
                    await asyncio.to_thread(self.err, client)
                await asyncio.sleep(0.02)  # about 40 calls a second: a rate, not a wait
        finally:
            await producer.stop()
            client.close()


@pytest.mark.integration
@pytest.mark.timeout(400)
async def test_every_panels_query_returns_data(tmp_path_factory: pytest.TempPathFactory) -> None:
    # Short: sockets of Postgres lie below it.
    folder = tmp_path_factory.mktemp("p")
    with local_stack(folder / "d") as data_dir:
        world = World(data_dir, json.loads((data_dir / "run" / "stack.json").read_text("utf-8")))
        await asyncio.to_thread(world.deploy, folder)
        async with prometheus(await asyncio.to_thread(prometheus_binary), folder, data_dir) as client:
            traffic = asyncio.create_task(world.traffic())
            try:
                await until_all_have_data(client, traffic)
                await check_figures(client)
            finally:
                traffic.cancel()
                await asyncio.wait([traffic])


async def until_all_have_data(client: httpx.AsyncClient, traffic: asyncio.Task[None]) -> None:
    missing = dict(panel_queries())
    assert len(missing) > 30
    try:
        async with asyncio.timeout(DATA_WITHIN_S):
            while missing:
                assert not traffic.done(), traffic.exception()
                for name, expression in list(missing.items()):
                    if await values(client, expression):
                        del missing[name]
                await asyncio.sleep(0.5)
    except TimeoutError:
        known = set((await client.get("/api/v1/label/__name__/values")).json()["data"])
        told = [
            f"{name}: {expression} (not scraped: {unknown_names(expression, known)})"
            for name, expression in missing.items()
        ]
        pytest.fail(f"no data within {DATA_WITHIN_S:g} s from\n" + "\n".join(told))


def unknown_names(expression: str, known: set[str]) -> list[str]:
    return sorted(set(re.findall(r"phantom_\w+", expression)) - known)


async def check_figures(client: httpx.AsyncClient) -> None:
    """What the panels show is plausible, not merely there."""
    panels = dict(panel_queries())
    shares = await values(client, panels["Share A"])
    assert {labels["revision"] for labels, _ in shares} >= {f"{ENDPOINT}.1", f"{ENDPOINT}.2"}
    assert sum(share for _, share in shares) == pytest.approx(1, abs=1e-6)
    middle, lower, upper = [await values(client, panels[f"Accuracy {each}"]) for each in "ABC"]
    for (_, accuracy), (_, low), (_, high) in zip(middle, lower, upper, strict=True):
        assert 0.5 < low <= accuracy <= high <= 1
    (_, p50), *_ = await values(client, panels["Latency of the last complete minute A"])
    assert 0 < p50 < 1000
    assert all(value == 0 for _, value in await values(client, panels["Prediction log: lost A"]))
    reasons = {labels["reason"] for labels, _ in await values(client, panels["Shed and refused B"])}
    assert reasons
    phases = {labels["phase"] for labels, _ in await values(client, panels["Replicas A"])}
    assert "ready" in phases
