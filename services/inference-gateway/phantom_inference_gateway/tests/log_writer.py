"""A process that records predictions as fast as it is told and notes each id in a file: it is there to be killed.

Arguments: bootstrap, spill folder, ledger file, endpoint keys separated by commas, boot id.
"""

from __future__ import annotations

import asyncio
import os
import struct
import sys
import time
from pathlib import Path

from phantom_inference_gateway.prediction_log import PredictionLog
from phantom_inference_gateway.tests.ledger import new_entry


async def main(bootstrap: str, spill: str, ledger: str, endpoints: str, boot_id: str) -> None:
    keys = endpoints.split(",")
    file = os.open(ledger, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    log = PredictionLog(bootstrap, Path(spill), boot_id=boot_id)
    log.set_routed(keys)
    await log.start()
    while True:
        for key in keys:
            entry = new_entry(key)
            log.record(entry)
            os.write(file, entry.prediction_id + struct.pack("<d", time.time()))
        await asyncio.sleep(0.001)


asyncio.run(main(*sys.argv[1:]))
