"""A small HTTP server over aiohttp's low-level one: bodies with bounds, and errors as JSON, always.

No router and no middleware: one handler is given every request. An error's body is `{"error": text, "code": code}`,
also where the request was no HTTP.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import orjson
from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from phantom_platform import errors
from phantom_platform.errors import Exhausted, Invalid, PhantomError, Refused, Unsupported
from phantom_platform.rpc.status import retry_after_s
from phantom_platform.telemetry import logs

log = logs.get(__name__)

TOO_LARGE = "request_too_large"
MAX_ERROR_TEXT = 2000
_JSON = "application/json"
_READ_AHEAD_BYTES = 256 * 1024

_STATUS: dict[type[PhantomError], int] = {
    errors.Invalid: 400,
    errors.Refused: 400,
    errors.Unauthenticated: 401,
    errors.Forbidden: 403,
    errors.NotFound: 404,
    errors.AlreadyExists: 409,
    errors.Conflict: 409,
    errors.Exhausted: 429,
    errors.Unsupported: 501,
    errors.Unavailable: 503,
    errors.DeadlineExceeded: 504,
}
# gRPC code → HTTP status (FACTS' table; the rest as googleapis maps them).
_GRPC_STATUS = {
    0: 200,
    1: 499,
    3: 400,
    4: 504,
    5: 404,
    6: 409,
    7: 403,
    8: 429,
    9: 400,
    10: 409,
    11: 400,
    12: 501,
    14: 503,
    16: 401,
}
_WINDOW_BITS = {"gzip": 31, "x-gzip": 31, "deflate": 15}

Handler = Callable[[web.BaseRequest], Awaitable[web.Response]]


def status_of(error: PhantomError) -> int:
    """The HTTP status of an error of ours."""
    if error.code == TOO_LARGE:
        return 413
    return next((status for kind, status in _STATUS.items() if isinstance(error, kind)), 500)


def status_of_grpc(code: int, reason: str) -> int:
    """The HTTP status of a failed call."""
    return 413 if reason == TOO_LARGE else _GRPC_STATUS.get(code, 500)


def json_response(body: object, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(body=orjson.dumps(body), status=status, headers=headers, content_type=_JSON)


def error_response(
    status: int,
    text: str,
    code: str,
    *,
    headers: Mapping[str, str] | None = None,
    retry_after_s: float | None = None,
) -> web.Response:
    """An error's answer. Texts may hold what clients sent: shortened, and whatever is no UTF-8 replaced."""
    clean = text[:MAX_ERROR_TEXT].encode("utf-8", "replace").decode()
    more = dict(headers or {})
    if retry_after_s is not None:
        more["Retry-After"] = str(max(1, math.ceil(retry_after_s)))
    if status == 401:
        more["WWW-Authenticate"] = "Bearer"
    return json_response({"error": clean, "code": code}, status, more)


def response_of(error: PhantomError) -> web.Response:
    """The answer to a call that was refused."""
    delay_s = retry_after_s(error)
    return error_response(status_of(error), error.message, error.code, retry_after_s=delay_s)


async def read_body(request: web.BaseRequest, limit: int) -> bytes:
    """The whole body, decompressed. `Exhausted` (413) where it is larger than `limit`, packed or not."""
    declared = request.content_length
    if declared is not None and declared > limit:
        raise _too_large(limit)
    await _continue(request)
    encoding = request.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in _WINDOW_BITS and encoding not in ("identity", ""):
        raise Unsupported(
            f"content encoding {encoding[:100]!r} is not read; use gzip, deflate or none",
            code="unsupported_encoding",
        )
    packed = await _read(request, limit)
    if encoding in _WINDOW_BITS:
        return _unpack(packed, _WINDOW_BITS[encoding], limit)
    return packed


async def _continue(request: web.BaseRequest) -> None:
    """Tell a client that asked first (curl does for large bodies) to go on."""
    if request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0


async def _read(request: web.BaseRequest, limit: int) -> bytes:
    content, pieces, size = request.content, [], 0
    try:
        while piece := await content.readany():
            pieces.append(piece)
            size += len(piece)
            if size > limit:
                raise _too_large(limit)
    except ConnectionError as error:
        # Nobody is left to read this; it is no failure of ours to be logged.
        raise Invalid("the connection ended inside the body", code="incomplete_body") from error
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _unpack(packed: bytes, window_bits: int, limit: int) -> bytes:
    stream = zlib.decompressobj(window_bits)
    try:
        body = stream.decompress(packed, limit + 1)
    except zlib.error as error:
        raise Invalid(f"the body is not compressed as announced: {error}", code="invalid_encoding") from error
    if len(body) > limit:
        raise _too_large(limit)
    if not stream.eof or stream.unused_data:
        what = "goes on after its end" if stream.eof else "is cut short"
        raise Invalid(f"the compressed body {what}", code="invalid_encoding")
    return body


def _too_large(limit: int) -> Exhausted:
    return Exhausted(f"a request may have at most {limit} bytes; send fewer rows at once", code=TOO_LARGE)


class _JsonProtocol(RequestHandler):
    """One connection, whose own errors are JSON too."""

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Called for what is no HTTP, and for a handler that raised. Closes the connection."""
        if status >= 500:
            log.error("a request failed", action="http_failed", exc_info=exc)
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun; there is no room for an error")
        text = (
            "the server failed" if status >= 500 else " ".join((message or "the request is no HTTP").split())
        )
        response = error_response(status, text, "internal" if status >= 500 else "bad_http")
        response.force_close()
        return response


class _JsonServer(web.Server):
    def __init__(self, handler: Handler, **settings: Any) -> None:
        super().__init__(handler, **settings)
        self._settings = settings

    def __call__(self) -> RequestHandler:
        return _JsonProtocol(self, loop=self._loop, **self._settings)


class HttpServer:
    """A part: listens, and gives every request to `handler`."""

    def __init__(
        self, name: str, handler: Handler, host: str, port: int, *, setting: str, is_shared: bool = False
    ) -> None:
        self.name = name
        self._handler = handler
        self._host = host
        self._port = port
        # The environment variable that moves the port, for the error.
        self._setting = setting
        self._is_shared = is_shared
        self._runner: web.ServerRunner | None = None

    @property
    def port(self) -> int:
        """The port in use; differs from the one asked for when that was 0."""
        return int(self._runner.addresses[0][1]) if self._runner is not None else self._port

    async def start(self) -> None:
        server = _JsonServer(
            self._handler,
            access_log=None,
            auto_decompress=False,  # `read_body` does it, within the bound
            read_bufsize=_READ_AHEAD_BYTES,
            keepalive_timeout=75.0,
        )
        runner = web.ServerRunner(server, shutdown_timeout=30.0)
        await runner.setup()
        try:
            site = web.TCPSite(
                runner, self._host, self._port, backlog=1024, reuse_port=self._is_shared or None
            )
            await site.start()
        except OSError as error:
            await runner.cleanup()
            raise Refused(
                f"{self.name} cannot listen on {self._host}:{self._port}: {error.strerror or error}; free the port "
                f"or set {self._setting} to another one (0 takes any)",
                code="address_in_use",
                address=f"{self._host}:{self._port}",
            ) from error
        self._runner = runner

    async def stop(self) -> None:
        """Take no new connection, finish what was asked (at most 30 s), close."""
        if self._runner is not None:
            await self._runner.cleanup()
