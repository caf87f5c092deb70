"""A gateway of several processes is one child: kept, started again on its ports, and stopped whole."""

import os
import signal
from collections.abc import Iterator
from dataclasses import replace

import psutil
import pytest

from phantom_local.children import live_process, wait_gone
from phantom_local.keeper import Keeper
from phantom_local.layout import Layout
from phantom_local.shutdown import stop_child
from phantom_local.stack import StackSettings, gateway_child, http_get

from .conftest import eventually

pytestmark = [pytest.mark.integration, pytest.mark.faults]


@pytest.fixture
def keeper(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> Iterator[Keeper]:
    """Of a gateway of two processes. Without Kafka it never serves, but everything of it starts."""
    monkeypatch.setenv("PHANTOM_GATEWAY_KAFKA_PATIENCE_S", "0")
    usual = StackSettings(gateway_workers=2)
    ports = {what: (variable, 0) for what, (variable, _) in usual.gateway_ports.items()}
    child = gateway_child(layout, replace(usual, gateway_ports=ports), 0, "127.0.0.1:1")
    keeper = Keeper(child, layout, lambda _: None)
    keeper.start()
    try:
        eventually(lambda: _have_started(keeper), 60)
        yield keeper
    finally:
        keeper.leave()
        stop_child(layout, "gateway-0", lambda _: None)


def _workers(keeper: Keeper) -> list[psutil.Process]:
    assert keeper.record
    process = live_process(keeper.record.pid)
    return process.children() if process else []


def _have_started(keeper: Keeper) -> bool:
    """Its ports are reserved, its workers listen."""
    return (
        bool(keeper.ports)
        and "worker 0-1" in http_get(keeper.ports["metrics"], "/ready")[1]
        and _listen(keeper)
    )


def _listen(keeper: Keeper) -> bool:
    return http_get(keeper.ports["http"], "/v2/health/live")[0] == 200


def test_after_kill_9_it_is_back_on_its_ports_when_its_last_worker_has_gone(keeper: Keeper) -> None:
    assert keeper.record
    first, ports, workers = keeper.record.pid, keeper.ports, _workers(keeper)
    assert len(workers) == 2
    os.kill(first, signal.SIGKILL)
    eventually(lambda: keeper.record and keeper.record.pid != first, 60)
    assert not wait_gone(workers, 1)  # the lock is theirs, too
    assert keeper.ports == ports
    eventually(lambda: _have_started(keeper), 60)


def test_down_stops_the_workers_of_a_gateway_that_was_killed(layout: Layout, keeper: Keeper) -> None:
    workers = _workers(keeper)
    keeper.leave()  # as if `up` had died
    assert keeper.record
    os.kill(keeper.record.pid, signal.SIGKILL)
    stop_child(layout, "gateway-0", lambda _: None)
    assert not wait_gone(workers, 30)
