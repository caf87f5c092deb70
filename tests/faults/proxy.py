"""Kafka behind a door that can be shut: what a client behind a firewall sees."""

from __future__ import annotations

import socket
import struct
import threading
from contextlib import suppress
from types import TracebackType

_HOST = "127.0.0.1"


class KafkaProxy:
    """Forwards to a broker. `cut` ends every connection and lets none through until `heal`.

    A broker tells clients its own address (in answers to Metadata requests), so that address is replaced in what
    it says: both have 4 bytes of port behind the same host, hence the same length.
    """

    def __init__(self, bootstrap: str) -> None:
        self._broker = int(bootstrap.rsplit(":", 1)[1])
        self._listener = socket.create_server((_HOST, 0))
        self.port = int(self._listener.getsockname()[1])
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._is_cut = False
        self._theirs = _HOST.encode() + struct.pack(">i", self._broker)
        self._ours = _HOST.encode() + struct.pack(">i", self.port)
        threading.Thread(target=self._accept, name="kafka-proxy", daemon=True).start()

    @property
    def bootstrap(self) -> str:
        """What a client is told."""
        return f"{_HOST}:{self.port}"

    def cut(self) -> None:
        """Nobody gets through, and who had is thrown out."""
        with self._lock:
            self._is_cut = True
            for each in self._open:
                _end(each)
            self._open.clear()

    def heal(self) -> None:
        """From now on connections are let through."""
        with self._lock:
            self._is_cut = False

    def __enter__(self) -> KafkaProxy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed
                return
            try:
                broker = socket.create_connection((_HOST, self._broker), timeout=2)
                broker.settimeout(None)
            except OSError:
                client.close()
                continue
            with self._lock:
                if self._is_cut:
                    _end(client)
                    _end(broker)
                    continue
                self._open |= {client, broker}
            for pump in (self._forward, self._backward):
                threading.Thread(target=pump, args=(client, broker), daemon=True).start()

    def _forward(self, client: socket.socket, broker: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(65536):
                broker.sendall(data)
        self._close(client, broker)

    def _backward(self, client: socket.socket, broker: socket.socket) -> None:
        with suppress(OSError):
            while head := _exactly(broker, 4):
                body = _exactly(broker, struct.unpack(">i", head)[0])
                client.sendall(head + body.replace(self._theirs, self._ours))
        self._close(client, broker)

    def _close(self, *ends: socket.socket) -> None:
        with self._lock:
            for each in ends:
                self._open.discard(each)
                _end(each)


def _end(connection: socket.socket) -> None:
    """Also for a thread that waits in it."""
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()


def _exactly(connection: socket.socket, count: int) -> bytes:
    """That many bytes; fewer where the other side has ended."""
    received = bytearray()
    while len(received) < count:
        part = connection.recv(count - len(received))
        if not part:
            break
        received += part
    return bytes(received)
