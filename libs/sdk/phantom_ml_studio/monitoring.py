"""`Monitoring`: what was predicted, and what became of it."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from phantom.monitor.v1 import monitor_service_pb2 as rpc
from phantom.monitor.v1 import monitor_service_pb2_grpc as stubs
from phantom_ml_studio import values
from phantom_ml_studio.client import Client


class Monitoring:
    """Figures that the monitor keeps. Raises the errors of `phantom_ml_studio.errors`."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._stub = stubs.MonitorServiceStub(client.channel)

    def summary(
        self, endpoint: str, since: datetime | None = None, until: datetime | None = None
    ) -> list[values.RevisionSummary]:
        """Totals per revision, arm and decision. Errors: NotFound `endpoint_not_found`."""
        request = rpc.GetSummaryRequest(endpoint=endpoint, start_time=_stamp(since), end_time=_stamp(until))
        response = self._client.call(self._stub.GetSummary, request)
        return [values.RevisionSummary.of(s) for s in response.revisions]

    def windows(
        self, endpoint: str, since: datetime | None = None, until: datetime | None = None
    ) -> list[dict[str, Any]]:
        """Stored 5 s windows in time order (the fields of WindowPublished)."""
        request = rpc.ListWindowsRequest(endpoint=endpoint, start_time=_stamp(since), end_time=_stamp(until))
        return [json.loads(w) for w in self._client.pages(self._stub.ListWindows, request, "windows_json")]

    def counts(self, endpoint: str) -> dict[str, Any]:
        """What the monitor has counted, exactly once each: answered_calls, outcomes_joined, ..."""
        response = self._client.call(self._stub.GetCounts, rpc.GetCountsRequest(endpoint=endpoint))
        names = [f.name for f in rpc.GetCountsResponse.DESCRIPTOR.fields if f.name != "watermarks_us"]
        return {name: getattr(response, name) for name in names} | {
            "watermarks_us": dict(response.watermarks_us)
        }


def _stamp(moment: datetime | None) -> Timestamp | None:
    if moment is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp
