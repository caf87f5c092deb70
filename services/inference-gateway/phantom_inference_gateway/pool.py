"""Every connection of this process, by endpoint and replica: what `routes` opens and retires."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from phantom.modelserver.v1 import model_server_service_pb2 as pb
from phantom_contracts.events.deployer import Replica, RouteRecord, RouteRevision
from phantom_inference_gateway.attempts import Target
from phantom_inference_gateway.oip_peers import OipPeer
from phantom_inference_gateway.upstreams import FrameStream, Hooks, Peer, State, StreamRule
from phantom_platform.lifecycle import Task
from phantom_platform.telemetry import logs

log = logs.get(__name__)

SWEEP_EVERY_S = 0.02
"""How late a deadline may be noticed here. A gRPC client's own is kept to the millisecond by gRPC."""


class Pool:
    """A part, and the `Replicas` of `Routes`."""

    name = "upstreams"

    def __init__(self, boot_id: str, rule: StreamRule, random: Callable[[], float]) -> None:
        self._boot_id = boot_id
        self._rule = rule
        self._hooks = Hooks(self._opening, self._draining, self._ejected, self._unlogged, random)
        # (endpoint key, replica, protocol) → connection
        self._targets: dict[str, dict[Peer, FrameStream | OipPeer]] = {}
        self._schemas: dict[str, tuple[int, bytes]] = {}
        self._leaving: dict[asyncio.Task[None], FrameStream | OipPeer] = {}
        self._sweeper = Task("upstreams:deadlines", self._sweep)
        self.ejections = 0
        self.unlogged = 0
        # Of connections that were retired: counters never fall.
        self._retired_frames = self._retired_calls = 0
        # Set by the composition root: the endpoint key of a draining replica's stream, its id and its route record.
        self.on_draining: Callable[[str, str, bytes], None] = lambda key, replica, record: None

    async def start(self) -> None:
        await self._sweeper.start()

    async def stop(self) -> None:
        """Close everything; whoever still waits gets UNAVAILABLE."""
        await self._sweeper.stop()
        await asyncio.gather(*(each.abort() for peers in self._targets.values() for each in peers.values()))
        self._targets.clear()
        await asyncio.gather(*(each.abort() for each in list(self._leaving.values())))

    # -- Replicas --------------------------------------------------------------------------------------------

    def open(self, record: RouteRecord) -> list[asyncio.Event]:
        key = f"{record.workspace}/{record.endpoint}"
        schema = record.endpoint_schema
        known = self._schemas.get(key)
        self._schemas[key] = (schema.version, schema.model_dump_json().encode())
        peers = self._targets.setdefault(key, {})
        if known is not None and known != self._schemas[key]:
            for each in peers.values():
                each.schema_changed()
        for revision in record.revisions:
            for replica in revision.replicas:
                peer = _peer(record, revision, replica)
                if peer not in peers:
                    peers[peer] = self._connect(peer, revision, replica)
        return [each.tried for each in peers.values() if not each.tried.is_set()]

    def targets(self, record: RouteRecord, revision: RouteRevision) -> list[Target]:
        peers = self._targets[f"{record.workspace}/{record.endpoint}"]
        return [peers[_peer(record, revision, replica)] for replica in revision.replicas]

    def keep_only(self, key: str, record: RouteRecord | None) -> None:
        wanted = (
            {_peer(record, revision, each) for revision in record.revisions for each in revision.replicas}
            if record is not None
            else set()
        )
        peers = self._targets.get(key, {})
        for peer in [each for each in peers if each not in wanted]:
            leaving = peers.pop(peer)
            leaving.retire()
            self._retired_frames += leaving.frames
            self._retired_calls += leaving.frame_calls
            task = asyncio.create_task(leaving.closed())
            self._leaving[task] = leaving
            task.add_done_callback(self._leaving.pop)
        if record is None:
            self._targets.pop(key, None)
            self._schemas.pop(key, None)

    # -- for metrics and readiness ---------------------------------------------------------------------------

    def unusable(self) -> list[str]:
        """Replicas that the routes name and that take no calls now, with the reason."""
        now = asyncio.get_running_loop().time()
        return [
            f"{key}: replica {peer.replica_id} is {each.state.value if each.state is not State.OPEN else 'ejected'}"
            for key, peers in self._targets.items()
            for peer, each in peers.items()
            if not each.is_open(now)
        ]

    def counts(self) -> tuple[int, int]:
        """Connections that take calls, and all."""
        now = asyncio.get_running_loop().time()
        every = [each for peers in self._targets.values() for each in peers.values()]
        return sum(each.is_open(now) for each in every), len(every)

    def waits(self) -> dict[tuple[str, str], float]:
        """(endpoint key, revision) → seconds until a call that comes now is answered, by the least busy replica."""
        now = asyncio.get_running_loop().time()
        found: dict[tuple[str, str], float] = {}
        for key, peers in self._targets.items():
            for peer, each in peers.items():
                if each.is_open(now):
                    wait = each.gate.wait_s(each.outstanding, now)
                    found[key, peer.revision] = min(wait, found.get((key, peer.revision), wait))
        return found

    def frames(self) -> tuple[int, int]:
        """Frames written since the start, and the calls in them."""
        every = [each for peers in self._targets.values() for each in peers.values()]
        return (
            self._retired_frames + sum(each.frames for each in every),
            self._retired_calls + sum(each.frame_calls for each in every),
        )

    # -- inside ----------------------------------------------------------------------------------------------

    def _connect(self, peer: Peer, revision: RouteRevision, replica: Replica) -> FrameStream | OipPeer:
        if replica.protocol == "oip":
            return OipPeer(peer, revision, self._rule, self._hooks)
        return FrameStream(peer, self._rule, self._hooks)

    def _opening(self, peer: Peer) -> pb.Open:
        version, schema = self._schemas.get(f"{peer.workspace}/{peer.endpoint}", (0, b""))
        return pb.Open(
            workspace=peer.workspace,
            endpoint=peer.endpoint,
            replica_id=peer.replica_id,
            revision=peer.revision,
            boot_id=self._boot_id,
            endpoint_schema=schema,
            schema_version=version,
        )

    def _draining(self, peer: Peer, record: bytes) -> None:
        log.info(
            "replica is draining", action="replica_draining", replica=peer.replica_id, endpoint=peer.endpoint
        )
        self.on_draining(f"{peer.workspace}/{peer.endpoint}", peer.replica_id, record)

    def _ejected(self, peer: Peer, why: str) -> None:
        self.ejections += 1
        log.warning(
            "replica ejected",
            action="replica_ejected",
            replica=peer.replica_id,
            endpoint=peer.endpoint,
            why=why,
        )

    def _unlogged(self, peer: Peer, why: str) -> None:
        if not self.unlogged:
            log.warning("features of a plain OIP answer not logged", action="oip_unlogged",
                        replica=peer.replica_id, why=why)  # fmt: skip
        self.unlogged += 1

    async def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(SWEEP_EVERY_S)
            now = loop.time()
            every = [each for peers in self._targets.values() for each in peers.values()]
            for each in (*every, *self._leaving.values()):
                if each.is_busy:
                    each.sweep(now)


def _peer(record: RouteRecord, revision: RouteRevision, replica: Replica) -> Peer:
    return Peer(record.workspace, record.endpoint, replica.id, revision.id, replica.address)
