"""gRPC in: phantom.monitor.v1.MonitorService. Wire to values, one call, values to wire."""

# ruff: noqa: N802 - the methods are called as the proto names them

from __future__ import annotations

import base64
import json
import time
from typing import Any

from phantom.monitor.v1 import monitor_service_pb2 as pb
from phantom.monitor.v1 import monitor_service_pb2_grpc as pb_grpc
from phantom_monitor.domain.counts import WindowCounts, WindowKey
from phantom_monitor.domain.figures import Figures
from phantom_monitor.service import Monitor, event
from phantom_platform.errors import Invalid
from phantom_platform.rpc import current_caller

SERVICE = "phantom.monitor.v1.MonitorService"
PAGE = 200
Context = Any


class MonitorRpc(pb_grpc.MonitorServiceServicer):
    """The door. Errors are mapped, and requests validated, by the platform's server."""

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor

    async def GetSummary(self, request: pb.GetSummaryRequest, context: Context) -> pb.GetSummaryResponse:
        workspace = current_caller().workspace
        endpoint = self._monitor.canonical(workspace, request.endpoint)
        summary = await self._monitor.summary(workspace, endpoint, *_span(request))
        revisions = [_revision(*key, *found) for key, found in summary.items()]
        return pb.GetSummaryResponse(endpoint=endpoint, revisions=revisions)

    async def ListWindows(self, request: pb.ListWindowsRequest, context: Context) -> pb.ListWindowsResponse:
        workspace = current_caller().workspace
        endpoint = self._monitor.canonical(workspace, request.endpoint)
        size = request.page_size or PAGE
        after = _after(request.page_token, workspace, endpoint)
        windows = await self._monitor.windows(workspace, endpoint, _span(request), size, after)
        return pb.ListWindowsResponse(
            windows_json=[event(window).model_dump_json() for window in windows],
            next_page_token=_token(windows[-1].key) if len(windows) == size else "",
        )

    async def GetCounts(self, request: pb.GetCountsRequest, context: Context) -> pb.GetCountsResponse:
        workspace = current_caller().workspace
        endpoint = self._monitor.canonical(workspace, request.endpoint)
        return pb.GetCountsResponse(**await self._monitor.counts(workspace, endpoint))


def _span(request: pb.GetSummaryRequest | pb.ListWindowsRequest) -> tuple[int, int]:
    start_s = request.start_time.seconds if request.HasField("start_time") else 0
    end_s = request.end_time.seconds if request.HasField("end_time") else int(time.time()) + 86_400
    if end_s <= start_s:
        raise Invalid("end_time is not after start_time", code="empty_time_range")
    return start_s, end_s


def _token(key: WindowKey) -> str:
    """Names the last window of a page."""
    return base64.urlsafe_b64encode(json.dumps(key).encode()).decode()


def _after(token: str, workspace: str, endpoint: str) -> WindowKey | None:
    """The window after which a page begins. Raises Invalid `invalid_page_token`."""
    if not token:
        return None
    try:
        key = WindowKey(*json.loads(base64.urlsafe_b64decode(token)))
        if (key.workspace, key.endpoint) != (workspace, endpoint):
            raise ValueError("it is of another endpoint")
        types = (str, str, str, str, str, int, str, int)
        if not all(type(value) is wanted for value, wanted in zip(key, types, strict=True)):
            raise ValueError("its parts are of other types")
        if max(key.route_version, key.start_s) >= 2**63:
            raise ValueError("its numbers are too large")
    except (ValueError, TypeError) as error:
        text = f"page_token {token[:40]!r} is not one that ListWindows gave for this endpoint: {error}"
        raise Invalid(text, code="invalid_page_token") from error
    return key


def _revision(
    revision: str, arm: str, decision: str, counts: WindowCounts, figures: Figures
) -> pb.RevisionSummary:
    return pb.RevisionSummary(
        revision=revision,
        arm=arm,
        decision=decision,
        requests=counts.requests,
        rows=counts.rows,
        failed_attempts=counts.failed_attempts,
        fallbacks=counts.fallbacks,
        rejected_inputs=counts.rejected_inputs,
        error_rate=figures.error_rate,
        latency_p50_ms=figures.latency_p50_ms,
        latency_p95_ms=figures.latency_p95_ms,
        latency_count=figures.latency_count,
        labelled=figures.labelled,
        label_coverage=figures.label_coverage,
        accuracy=figures.accuracy,
        accuracy_lower=figures.accuracy_lower,
        accuracy_upper=figures.accuracy_upper,
        log_loss=figures.log_loss,
        classes=counts.classes,
    )
