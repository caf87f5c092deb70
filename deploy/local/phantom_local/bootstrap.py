"""What a new local stack needs before anybody can deploy: the environment `production`.

Users, keys and passwords are governance's own, made at its start; this comes after the doors are open.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from phantom.deployer.v1 import deployer_service_pb2 as pb
from phantom.deployer.v1.deployer_service_pb2_grpc import DeployerServiceStub
from phantom_platform.errors import AlreadyExists, Unauthenticated, Unavailable
from phantom_platform.rpc.client import Tokens, control_channel, translated
from phantom_platform.telemetry import logs

if TYPE_CHECKING:  # the typed form of what the channel makes exists in the stub file only
    from phantom.deployer.v1.deployer_service_pb2_grpc import DeployerServiceAsyncStub

log = logs.get(__name__)

ENVIRONMENT, ENVIRONMENT_TYPE = "production", "local"
PATIENCE_S = 60.0
_PAUSE_S = 0.1
_CALL_TIMEOUT_S = 10.0


class ProductionEnvironment:
    """A part: started last, it asks our own door like anybody else."""

    name = "production environment"

    def __init__(self, control_address: str, tokens: Tokens) -> None:
        self._address = control_address
        self._tokens = tokens

    async def start(self) -> None:
        """Return when it exists; raises the last refusal where that takes over a minute.

        The key that verifies our token comes through Kafka, so the first calls may be refused.
        """
        deadline = asyncio.get_running_loop().time() + PATIENCE_S
        async with control_channel(self._address, self._tokens) as channel:
            while True:
                try:
                    return await self._create(DeployerServiceStub(channel))
                except (Unavailable, Unauthenticated) as error:
                    if asyncio.get_running_loop().time() > deadline:
                        raise
                    log.debug("not yet", action="environment_waits", error=str(error))
                await asyncio.sleep(_PAUSE_S)

    async def stop(self) -> None:
        """It stays."""

    async def _create(self, deployer: DeployerServiceAsyncStub) -> None:
        request = pb.CreateEnvironmentRequest(name=ENVIRONMENT, type=ENVIRONMENT_TYPE)
        try:
            with translated():
                await deployer.CreateEnvironment(request, timeout=_CALL_TIMEOUT_S)
        except AlreadyExists:
            log.info("environment has another type", action="environment_kept", environment=ENVIRONMENT)
