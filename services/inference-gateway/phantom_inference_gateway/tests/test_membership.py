"""A worker's side of its group: what it tells, and its end when the group's process has gone."""

import asyncio
import os
import signal
import socket
from contextlib import asynccontextmanager

import pytest

from phantom_inference_gateway import app, membership
from phantom_inference_gateway.channel import METRICS, STANDING, Channel, read
from phantom_inference_gateway.group import GAUGES
from phantom_inference_gateway.membership import inherited
from phantom_inference_gateway.settings import GatewaySettings
from phantom_platform.errors import Refused


@asynccontextmanager
async def member(tmp_path):
    ours, theirs = socket.socketpair()
    built = app.build(GatewaySettings(), "127.0.0.1:1", tmp_path, group=theirs)
    part = built.observation
    assert built.parts[0] is part  # the last to stop: what it sends then is final
    async with asyncio.timeout(10):
        await part.start()
        channel = await Channel.over(ours)
        yield part, channel
        channel.close()


async def ask(channel, number, what):
    await channel.send({"id": number, "what": what})
    return await channel.receive()


async def test_it_tells_how_it_is_and_what_it_counts(tmp_path):
    async with member(tmp_path) as (part, channel):
        said = await ask(channel, 7, STANDING)
        assert (said["id"], said["reasons"]["lifecycle"], said["attention"]) == (7, "starting", [])
        said = await ask(channel, 8, METRICS)
        families = read(said["families"])
        assert said["id"] == 8
        assert "phantom_gateway_shed_total" in {each.name for each in families if each.kind == "counter"}
        assert set(GAUGES) <= {each.name for each in families if each.kind == "gauge"}
        await part.stop()


async def test_before_it_ends_it_tells_its_last_counts_unasked(tmp_path):
    async with member(tmp_path) as (part, channel):
        await part.stop()
        last = await channel.receive()
        assert last["id"] == 0
        assert read(last["families"])
        assert await channel.receive() is None


async def test_without_its_group_it_asks_itself_to_stop(tmp_path, monkeypatch):
    asked = asyncio.Event()
    monkeypatch.setattr(membership.os, "kill", lambda pid, number: (pid, number) == ME and asked.set())
    async with member(tmp_path) as (part, channel):
        channel.close()
        await asked.wait()
        await part.stop()


ME = (os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("kind", ["closed", "file", "tcp"])
def test_a_descriptor_that_no_group_left_is_refused(kind, tmp_path):
    with socket.socket() as tcp, (tmp_path / "f").open("w") as file:
        fd = {"closed": 999, "file": file.fileno(), "tcp": tcp.fileno()}[kind]
        with pytest.raises(Refused, match="PHANTOM_GATEWAY_WORKERS") as refused:
            inherited(fd)
    assert refused.value.code == "no_worker_group"
