"""Scans of models: a few at once, on threads that nobody else waits for."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from phantom_contracts.schema import ModelSchema
from phantom_scanner import Report, scan

AT_ONCE = 2
"""A scan may take 4 GiB and a core for two minutes; the others wait for their turn."""


class Scans:
    """For all stages of the process."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="scan")

    async def scan(self, path: Path, framework: str, schema: ModelSchema | None) -> Report:
        """As `phantom_scanner.scan`. Cancelled, the scan ends, too, or is never begun."""
        stop = threading.Event()
        run = partial(scan, path, framework=framework, schema=schema, is_stopped=stop.is_set)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, run)
        finally:
            stop.set()
