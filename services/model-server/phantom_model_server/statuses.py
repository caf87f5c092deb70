"""Ending a gRPC call with one of our errors: status, message and machine-readable details."""

from __future__ import annotations

from typing import Any, NoReturn

import grpc
from google.rpc import error_details_pb2, status_pb2

from phantom_model_server.failures import code_of
from phantom_platform.errors import PhantomError

DETAILS_KEY = "grpc-status-details-bin"
MAX_MESSAGE = 1000
STATUS = {code.value[0]: code for code in grpc.StatusCode}


async def abort(context: grpc.aio.ServicerContext[Any, Any], error: PhantomError) -> NoReturn:
    """End the call with the error's status; ErrorInfo carries its code and fields."""
    code = code_of(error)
    message = error.message[:MAX_MESSAGE]
    info = error_details_pb2.ErrorInfo(reason=error.code, domain="phantom")
    for name, value in list(error.fields.items())[:8]:
        info.metadata[name] = str(value)[:200]
    status = status_pb2.Status(code=code, message=message)
    status.details.add().Pack(info)
    await context.abort(STATUS[code], message, ((DETAILS_KEY, status.SerializeToString()),))
    raise AssertionError("abort returned")  # it raises
