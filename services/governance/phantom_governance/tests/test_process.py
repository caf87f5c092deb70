"""The service as the process that an operator starts."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest

from phantom.governance.v1 import governance_service_pb2 as pb
from phantom.governance.v1 import governance_service_pb2_grpc as stubs
from phantom_platform import rpc
from phantom_platform.errors import Unauthenticated
from phantom_platform.testing.waiting import until


class Process:
    """`python -m phantom_governance`, its log lines as they come."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[dict] = []
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for line in self.process.stderr:
            if line.startswith(b"{"):
                self.lines.append(json.loads(line))

    async def line(self, action: str) -> dict:
        return await until(
            lambda: next((each for each in self.lines if each.get("action") == action), None), within_s=40
        )

    async def end(self) -> int:
        code = await asyncio.wait_for(self.process.wait(), 40)
        await self._reading
        return code


@asynccontextmanager
async def governance(kafka: str, dsn: str, data_dir, port: str = "0") -> AsyncIterator[Process]:
    environment = {
        **os.environ,
        "PHANTOM_KAFKA_BOOTSTRAP": kafka,
        "PHANTOM_POSTGRES_DSN": dsn,
        "PHANTOM_DATA_DIR": str(data_dir),
        "PHANTOM_CONTROL_PORT": port,
        "PHANTOM_METRICS_PORT": "0",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "phantom_governance", env=environment, stderr=asyncio.subprocess.PIPE
    )
    running = Process(process)
    try:
        yield running
    finally:
        if process.returncode is None:
            process.kill()
        await running.end()


async def status(address: str, path: str) -> int:
    async with aiohttp.ClientSession() as session, session.get(f"http://{address}{path}") as answer:
        return answer.status


async def test_it_becomes_ready_answers_and_stops_when_asked(kafka_bootstrap, postgres_dsn, tmp_path):
    async with governance(kafka_bootstrap, postgres_dsn, tmp_path) as running:
        address = (await running.line("grpc_listening"))["address"]
        observed = (await running.line("metrics_listening"))["address"]

        async def is_ready() -> bool:
            return await status(observed, "/ready") == 200

        await until(is_ready, within_s=40)
        key_file = tmp_path / "secrets" / "registry.key"
        request = pb.IssueServiceTokenRequest(service="registry", key=key_file.read_text().strip())
        async with rpc.control_channel(address, None) as channel:
            stub = stubs.GovernanceServiceStub(channel)
            token = (await stub.IssueServiceToken(request, timeout=20)).token.value
            me = await stub.WhoAmI(
                pb.WhoAmIRequest(), timeout=20, metadata=(("authorization", f"Bearer {token}"),)
            )
            assert me.principal == "registry"
            password = (tmp_path / "secrets" / "admin-password").read_text().strip()
            answer = await stub.Login(pb.LoginRequest(username="admin", password=password), timeout=20)
            assert answer.token.permissions == ["*"]
        # A second one on the same port says so and ends; it neither shares the port nor harms the first.
        port = address.rpartition(":")[2]
        async with governance(kafka_bootstrap, postgres_dsn, tmp_path, port) as second:
            assert await second.end() == 1
            assert "PHANTOM_CONTROL_PORT" in (await second.line("start_failed"))["error"]
        assert await status(observed, "/ready") == 200
        running.process.send_signal(signal.SIGTERM)
        assert await running.end() == 0
        text = json.dumps(running.lines)
        assert password not in text
        assert token not in text


async def test_with_kafka_away_it_waits_and_says_what_for(postgres_dsn, tmp_path):
    async with governance("127.0.0.1:1", postgres_dsn, tmp_path) as running:
        address = (await running.line("grpc_listening"))["address"]
        observed = (await running.line("metrics_listening"))["address"]
        assert await status(observed, "/health") == 200
        assert await status(observed, "/ready") == 503
        # Tokens are issued meanwhile; only what needs the announced key has to wait.
        key = (tmp_path / "secrets" / "registry.key").read_text().strip()
        async with rpc.control_channel(address, None) as channel:
            stub = stubs.GovernanceServiceStub(channel)
            request = pb.IssueServiceTokenRequest(service="registry", key=key)
            token = (await stub.IssueServiceToken(request, timeout=20)).token.value
            with pytest.raises(Unauthenticated) as refused, rpc.translated():
                await stub.WhoAmI(pb.WhoAmIRequest(), metadata=(("authorization", f"Bearer {token}"),))
        assert refused.value.code == "token_unknown_key"
        running.process.send_signal(signal.SIGTERM)
        assert await running.end() == 0


async def test_a_setting_that_cannot_be_is_refused_by_name(kafka_bootstrap, postgres_dsn, tmp_path):
    async with governance(kafka_bootstrap, postgres_dsn, tmp_path, port="65536") as running:
        assert await running.end() == 1
        error = (await running.line("build_failed"))["error"]
    assert "port" in error
    assert "65536" in error
