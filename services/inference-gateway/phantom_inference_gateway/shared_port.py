"""A port that the workers of a group share, and nobody else: reserved and locked by the group's process.

The workers listen with SO_REUSEPORT, and the kernel spreads connections over them. That option alone would let any
gateway of the same user in, silently; so the group's process binds the port first, without the option, and holds a
lock of the same name. It never listens, so it is given no connection.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import Any

from phantom_platform.errors import Refused, Unsupported
from phantom_platform.telemetry import logs

log = logs.get(__name__)


class SharedPort:
    """A part. `what` names the door and `setting` the variable that moves it, for errors."""

    def __init__(self, what: str, host: str, port: int, *, setting: str) -> None:
        self.name = f"{what} port"
        self._what = what
        self._host = host
        self._port = port
        self._setting = setting
        self._sockets: list[socket.socket] = []

    @property
    def port(self) -> int:
        """The port in use; differs from the one asked for when that was 0."""
        return self._port

    async def start(self) -> None:
        """`Refused` (`address_in_use`) where anybody else has it, another group included."""
        if not hasattr(socket, "SO_REUSEPORT"):
            raise Unsupported("several workers need SO_REUSEPORT; set PHANTOM_GATEWAY_WORKERS to 1")
        try:
            for family, where in _addresses(self._host, self._port):
                self._sockets.append(_reserved(family, (where[0], self._port, *where[2:])))
                self._port = int(self._sockets[0].getsockname()[1])  # every address of a name has the same
            self._sockets.append(_locked(f"{self._host}:{self._port}"))
        except OSError as error:
            await self.stop()
            raise Refused(
                f"{self._what} cannot listen on {self._host}:{self._port}: {error.strerror or error}; stop what "
                f"listens there (workers of a gateway that was killed may still be ending) or set {self._setting} "
                "to another port (0 takes any)",
                code="address_in_use",
                address=f"{self._host}:{self._port}",
            ) from error
        log.info("port reserved", action="port_reserved", door=self._what, host=self._host, port=self._port)

    async def stop(self) -> None:
        for each in self._sockets:
            each.close()
        self._sockets.clear()


def _addresses(host: str, port: int) -> list[tuple[int, tuple[Any, ...]]]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return list(dict.fromkeys((int(family), where) for family, _, _, _, where in found))


def _reserved(family: int, where: tuple[Any, ...]) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        # Past connections of the port may linger; whoever listens there, with SO_REUSEPORT or without, is refused.
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(where)
        # From here on the workers may join, and nobody else may bind it, although nobody listens yet.
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    except OSError:
        made.close()
        raise
    return made


def _locked(address: str) -> socket.socket:
    """An exclusive lock that lives and dies with the processes that have it: a name among abstract Unix sockets,
    which belong to the same network namespace as ports do. The workers inherit it, so that after kill -9 of the
    group's process no other group begins before the last of them has ended."""
    lock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        lock.bind(f"\0phantom-ml-studio/gateway/{address}")
    except OSError:
        lock.close()
        raise
    with suppress(OSError):
        lock.set_inheritable(True)
    return lock
