"""/metrics, /health and /ready of a worker group: a few requests a minute, so HTTP in a hundred lines instead of a
framework's ten megabytes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress

from phantom_inference_gateway.domain.totals import Family
from phantom_platform.errors import Refused
from phantom_platform.telemetry import logs

log = logs.get(__name__)

_PATIENCE_S = 10.0
_MAX_HEAD_BYTES = 16 * 1024
_TEXT, _JSON = "text/plain; version=0.0.4; charset=utf-8", "application/json; charset=utf-8"
_STATUS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    503: "Service Unavailable",
}

Answer = tuple[int, str, bytes]
Standing = tuple[Mapping[str, str], Sequence[str]]


class Observation:
    """A part. `standing` gives the reasons against sending work here, and what needs attention."""

    name = "metrics http"

    def __init__(
        self,
        host: str,
        port: int,
        metrics: Callable[[], Awaitable[Iterable[Family]]],
        standing: Callable[[], Awaitable[Standing]],
    ) -> None:
        self._host = host
        self._port = port
        self._metrics = metrics
        self._standing = standing
        self._server: asyncio.Server | None = None

    @property
    def port(self) -> int:
        """The port in use; differs from the one asked for when that was 0."""
        return int(self._server.sockets[0].getsockname()[1]) if self._server else self._port

    async def start(self) -> None:
        try:
            self._server = await asyncio.start_server(
                self._serve, self._host, self._port, limit=_MAX_HEAD_BYTES
            )
        except OSError as error:
            raise Refused(
                f"metrics cannot listen on {self._host}:{self._port}: {error.strerror or error}; free the port or "
                "set PHANTOM_GATEWAY_METRICS_PORT to another one (0 takes any)",
                code="address_in_use",
                address=f"{self._host}:{self._port}",
            ) from error
        log.info("metrics listening", action="metrics_listening", address=f"{self._host}:{self.port}")

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request a connection."""
        with suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
            async with asyncio.timeout(_PATIENCE_S):
                try:
                    head = await reader.readuntil(b"\r\n\r\n")
                except asyncio.LimitOverrunError:
                    head = b""
                method, path = _asked(head)
                status, kind, body = await self._answer(method, path)
                writer.write(_head(status, kind, len(body)) + (b"" if method == "HEAD" else body))
                await writer.drain()
        writer.close()

    async def _answer(self, method: str, path: str) -> Answer:
        if method not in ("GET", "HEAD"):
            return _error(405 if method else 400, "GET is what is taken here")
        match path.partition("?")[0]:
            case "/metrics":
                return 200, _TEXT, exposition(await self._metrics())
            case "/health":
                return _json(200, {"live": True})
            case "/ready":
                reasons, attention = await self._standing()
                body = {"ready": not reasons, "reasons": dict(reasons), "attention": list(attention)}
                return _json(503 if reasons else 200, body)
            case _:
                return _error(404, "there are /metrics, /health and /ready")


def exposition(families: Iterable[Family]) -> bytes:
    """The text format of Prometheus, 0.0.4."""
    lines = []
    for family in families:
        help_text = family.help.replace("\\", r"\\").replace("\n", r"\n")
        lines += [f"# HELP {family.name} {help_text}", f"# TYPE {family.name} {family.kind}"]
        for (name, labels), value in family.samples.items():
            told = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels)
            lines.append(f"{name}{{{told}}} {_number(value)}" if told else f"{name} {_number(value)}")
    return "".join(f"{line}\n" for line in lines).encode("utf-8", "replace")


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _number(value: float) -> str:
    return {"inf": "+Inf", "-inf": "-Inf", "nan": "NaN"}.get(text := repr(float(value)), text)


def _asked(head: bytes) -> tuple[str, str]:
    """Method and path; empty where this is no HTTP."""
    words = head.partition(b"\r\n")[0].decode("latin-1").split(" ")
    return (words[0], words[1]) if len(words) == 3 and words[2].startswith("HTTP/1.") else ("", "")


def _head(status: int, kind: str, length: int) -> bytes:
    lines = [f"HTTP/1.1 {status} {_STATUS[status]}", f"Content-Type: {kind}", f"Content-Length: {length}"]
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode()


def _json(status: int, body: object) -> Answer:
    return status, _JSON, json.dumps(body).encode()


def _error(status: int, text: str) -> Answer:
    return _json(status, {"error": text})
