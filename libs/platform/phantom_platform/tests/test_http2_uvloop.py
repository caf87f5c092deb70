"""The services run on uvloop, whose transports differ from asyncio's: the same tests once more, on it."""

import asyncio
import sys
from pathlib import Path

HERE = Path(__file__).parent
FILES = ("calls", "client", "flow", "protocol", "stop", "fuzz")


async def test_http2_holds_on_uvloop():
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "pytest", "-q", "-p", "phantom_platform.tests.on_uvloop", "-p", "no:cacheprovider"),
        *(str(HERE / f"test_http2_{each}.py") for each in FILES),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=HERE.parents[3],
    )
    try:
        async with asyncio.timeout(120):
            said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, said.decode()
