"""Measuring in a process of its own: what else a service does meanwhile would count as the model's time, and 32 calls
in flight would hold up the service.

    python -m phantom_probing.apart     # an order on stdin, figures or an error on stdout
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from phantom_platform import errors
from phantom_platform.errors import PhantomError
from phantom_probing import measure
from phantom_probing.client import Caller, Target
from phantom_probing.measure import Latency, Throughput

_KINDS = {
    kind.__name__: kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, PhantomError)
}


async def latency(target: Target, requests: Sequence[bytes], **options: float) -> Latency:
    """As measure.latency."""
    return Latency(**await _ask("latency", target, requests, options))


async def throughput(target: Target, requests: Sequence[bytes], **options: float) -> Throughput:
    """As measure.throughput."""
    return Throughput(**await _ask("throughput", target, requests, options))


async def _ask(
    what: str, target: Target, requests: Sequence[bytes], options: dict[str, float]
) -> dict[str, Any]:
    order = {
        "what": what,
        "target": asdict(target),
        "requests": [base64.b64encode(each).decode() for each in requests],
        "options": options,
    }
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "phantom_probing.apart",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={
            name: value for name, value in os.environ.items() if name == "PATH" or name.startswith("PYTHON")
        },
    )
    try:
        out, err = await child.communicate(json.dumps(order).encode())
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    if child.returncode:
        words = err.decode(errors="replace").strip().splitlines()
        raise PhantomError(
            f"the measuring process ended with {child.returncode}: {words[-1] if words else 'it said nothing'}",
            code="measuring_failed",
        )
    answer: dict[str, Any] = json.loads(out)
    if "error" in answer:
        said = answer["error"]
        raise _KINDS[said["kind"]](said["message"], code=said["code"])
    return answer


async def _obey(order: dict[str, Any]) -> dict[str, Any]:
    given = dict(order["target"])
    given["metadata"] = tuple((name, value) for name, value in given["metadata"])
    requests = [base64.b64decode(each) for each in order["requests"]]
    measuring: Any = {"latency": measure.latency, "throughput": measure.throughput}[order["what"]]
    async with Caller(Target(**given)) as caller:
        try:
            return asdict(await measuring(caller, requests, **order["options"]))
        except PhantomError as error:
            return {"error": {"kind": type(error).__name__, "code": error.code, "message": error.message}}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asyncio.run(_obey(json.load(sys.stdin)))))
