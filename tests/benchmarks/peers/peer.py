"""What all peers share: their environment, their folder, starting until they answer rightly, ending."""

from __future__ import annotations

import json
import shutil
import socket
import tempfile
import urllib.request
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Literal

from harness import model
from harness.processes import Process
from harness.system import INFER, CannotMeasure, Headers

from . import environments

# One worker that serves is the default for all, so its BLAS and OpenMP get one thread too: a second only spins on
# rows that are predicted in 0.2 ms.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
STOP_LIMIT_S = 20


class Peer(ABC):
    """A system under test that is one command in an environment of its own."""

    name: str
    environment: str  # folder of this package, with requirements.lock
    protocol: Literal["grpc", "http"]
    path: str
    body: bytes
    body32: bytes
    headers: Headers = ()
    address = ""
    start_limit_s = 60.0
    _why = ""

    def __init__(self) -> None:
        self._process: Process | None = None
        self._folder: Path | None = None

    @abstractmethod
    def command(self, python: Path, ports: list[int]) -> list[str]:
        """How to start it. It has to listen on 127.0.0.1:`ports[0]`; the other two are for whatever else it opens."""

    @abstractmethod
    def ask(self) -> bytes:
        """The answer to one body. Raises while nothing answers."""

    @abstractmethod
    def check(self, answer: bytes, rows: int = 1) -> None:
        """Raise CannotMeasure unless `answer` holds the model's probabilities."""

    def prepare(self, folder: Path, ports: list[int]) -> dict[str, str]:
        """Write what the server reads into its working directory; returns what it needs in its environment."""
        return {}

    def start(self) -> None:
        """Install it where needed, start it, wait until it answers rightly."""
        python, ports = environments.python_of(self.environment), free_ports(3)
        # A short path: Ray puts sockets below it. HOME too: what a peer likes to leave behind goes with its folder.
        self._folder = Path(tempfile.mkdtemp(prefix="peer-"))
        environment = ONE_THREAD | {
            "HOME": str(self._folder),
            "PYTHONPATH": "",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        environment |= {"BENCH_MODEL": str(model.file())} | self.prepare(self._folder, ports)
        self.address = f"127.0.0.1:{ports[0]}"
        log = self._folder / "server.log"
        self._process = Process(self.command(python, ports), log, environment, self._folder)
        try:
            self._process.wait_until(self._answers_rightly, self.start_limit_s)
        except CannotMeasure as reason:
            self._end()
            raise CannotMeasure(f"{self.name}: {reason}{self._why}") from reason

    def _answers_rightly(self) -> bool:
        """A wrong answer is CannotMeasure; none yet is False."""
        try:
            answer = self.ask()
        except Exception as error:  # each protocol has its own, and any means: not yet
            self._why = f" (last seen: {error!r:.500})"
            return False
        self.check(answer)
        return True

    def pids(self) -> list[int]:
        """The process whose descendants are all the others."""
        return [self._process.pid] if self._process else []

    def stop(self) -> None:
        """End it with all that it started, and remove its folder."""
        self._end()

    def _end(self) -> None:
        if self._process:
            self._process.stop(STOP_LIMIT_S)
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._process = self._folder = None


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody holds now."""
    holders = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(holder.getsockname()[1]) for holder in holders]
    for holder in holders:
        holder.close()
    return ports


class GrpcPeer(Peer):
    """Speaks the Open Inference Protocol over gRPC; the request is the one that every gRPC system gets."""

    protocol = "grpc"
    path = INFER
    output: str

    def __init__(self) -> None:
        super().__init__()
        self.body, self.body32 = model.oip_request(1), model.oip_request(32)

    def ask(self) -> bytes:
        import grpc

        with grpc.insecure_channel(self.address) as channel:
            answer: bytes = channel.unary_unary(self.path)(
                self.body, timeout=5, metadata=self.headers or None
            )
            return answer

    def check(self, answer: bytes, rows: int = 1) -> None:
        model.check(model.oip_probabilities(answer, self.output), rows)


class HttpPeer(Peer):
    """Takes rows as JSON. `key`: the name that its rows go by; the answer is a list of probabilities, or has `key`."""

    protocol = "http"
    key: str
    answer_key: str | None = None

    def __init__(self) -> None:
        super().__init__()
        self.body, self.body32 = self._body(1), self._body(32)

    def _body(self, rows: int) -> bytes:
        # The shortest digits that are this float32 again: as few bytes as a careful client would send.
        values = [[float(str(value)) for value in row] for row in model.rows(rows)]
        return json.dumps({self.key: values}, separators=(",", ":")).encode()

    def ask(self) -> bytes:
        request = urllib.request.Request(
            f"http://{self.address}{self.path}", self.body, {"Content-Type": "application/json"}
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=5) as response:
            answer: bytes = response.read()
            return answer

    def check(self, answer: bytes, rows: int = 1) -> None:
        try:
            found = json.loads(answer)
            values = found[self.answer_key] if self.answer_key else found
        except (ValueError, KeyError, TypeError) as error:
            raise CannotMeasure(f"{self.name} answered {answer[:200]!r}") from error
        model.check(values, rows)
