"""`make demo`: start everything, run the job, check it, stop everything (or not, with --keep)."""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from phantom_demo import job, preparing
from phantom_demo.people import make_people
from phantom_demo.summary import how_to_call, print_summary, write_request
from phantom_demo.training import NEW, OLD
from phantom_local import children, detached, layout, shutdown, status
from phantom_ml_studio import PhantomError

REPOSITORY = Path(__file__).parents[2]
DATA_DIR = Path(os.environ.get("PHANTOM_DEMO_DIR") or REPOSITORY / ".phantom" / "demo")
DASHBOARD = REPOSITORY / "deploy" / "grafana" / "dashboards" / "phantom-overview.json"
READY_TIMEOUT_S = 120.0


def main() -> int:
    """Exit code 0 where every invariant holds."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave it running, and say how to call it")
    parser.add_argument("--stop", action="store_true", help="stop what --keep left running")
    arguments = parser.parse_args()
    place = layout.Layout(DATA_DIR)
    if arguments.stop:
        return 0 if _stop(place) else 1
    if children.is_locked(place.run / "up.lock"):
        _say(f"a demo is still running from {DATA_DIR}: stop it with `make demo-stop`, then run this again")
        return 1
    _say(f"a fresh data directory: {DATA_DIR}")
    _stop(place)
    shutil.rmtree(DATA_DIR, ignore_errors=True)
    try:
        code = _run(place, keep=arguments.keep)
    except BaseException as error:
        _say("stopping, since something failed; the logs stay in " + str(DATA_DIR / "logs"))
        _stop(place)
        refused = _refusals(error)
        if not refused:
            raise
        for each in refused:
            _say(f"{each.message} [{each.code}]")
        return 1
    if not arguments.keep:
        _stop(place)
    return code


def _run(place: layout.Layout, *, keep: bool) -> int:
    began = time.perf_counter()
    code = detached.run_detached(place, (1, 1), READY_TIMEOUT_S)
    if code:
        return code
    ready_s = time.perf_counter() - began
    stack: dict[str, Any] = layout.read_json(place.stack_file) or {}
    people = make_people(DATA_DIR, stack["control_address"])
    with tempfile.TemporaryDirectory() as folder:
        _say("training two versions on January to March, and registering them")
        made = preparing.train_versions((OLD, NEW), Path(folder), _say)
        preparing.register(people, made, _say)
        _say(f"deploying {OLD} to production with two replicas, {NEW} beside it")
        endpoint = preparing.deploy(people, _say)
        addresses = job.Addresses(stack["gateways"][0]["grpc"], stack["kafka_bootstrap"])
        stage = job.Stage(people, endpoint, addresses, Path(folder), _memory(place), _say)
        result = asyncio.run(job.run(stage))
    print_summary(result, ready_s)
    if keep:
        write_request(DATA_DIR / "request.json")
        print(how_to_call(stack, endpoint, DATA_DIR, DASHBOARD))
    broken = [verdict.name for verdict in result.verdicts if not verdict.holds]
    if broken:
        print(f"\nBROKEN: {'; '.join(broken)}")
    return 1 if broken else 0


def _refusals(error: BaseException) -> list[PhantomError]:
    """The platform's own errors in what was raised; empty where it is anything else."""
    if isinstance(error, PhantomError):
        return [error]
    if isinstance(error, BaseExceptionGroup):
        inner = [_refusals(each) for each in error.exceptions]
        return [each for found in inner for each in found] if all(inner) else []
    return []


def _memory(place: layout.Layout) -> Callable[[], float]:
    return lambda: status.stack_status(place).memory_mb


def _stop(place: layout.Layout) -> bool:
    if not place.run.is_dir():
        return True
    detached.stop_supervisor(place, _say)
    return shutdown.stop_everything(place, _say)


def _say(text: str) -> None:
    print(f"demo: {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
