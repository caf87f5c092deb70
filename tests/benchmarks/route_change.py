"""From a committed route version to the first answer that carries it, under light traffic, on a whole stack.

The clock starts when `SetCanaryWeight` has answered (it answers after commit, without waiting for gateways) and
stops at the first answer whose `phantom-route-version` is that version or newer.

    python tests/benchmarks/route_change.py [--changes 200] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from harness import models
from harness.collector import running_collector
from harness.people import make_people
from harness.stack import running_stack
from phantom_ml_studio import Deployments, InferenceClient, ModelRegistry

TARGET_MS = 1000.0
GIVE_UP_S = 10.0
MODEL = "route-change"


def main() -> int:
    """Print the table; 0 unless the measurement could not be made."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--changes", type=int, default=200)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with running_collector() as collector, running_stack(collector.address, lambda: False) as stack:
        people = make_people(stack)
        deployments = Deployments(people.engineer.client)
        endpoint = deploy(ModelRegistry(people.engineer.client), deployments)
        gateway = InferenceClient(stack.grpc)
        taken = [change(deployments, gateway, endpoint, number) for number in range(arguments.changes)]
        gateway.close()
        people.close()
    rows = [row(f"route change applied, {name}, ms", q, taken) for name, q in (("p50", 0.5), ("p99", 0.99))]
    print("| measure | value | min | max | target | holds |\n|---|---|---|---|---|---|")
    for each in rows:
        print("| " + " | ".join(str(value) for value in each.values()) + " |")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2))
    return 0


def deploy(registry: ModelRegistry, deployments: Deployments) -> str:
    """Two versions of a small model, the second as candidate at 0 %."""
    with tempfile.TemporaryDirectory() as folder:
        for version, seed in (("1.0.0", 1), ("1.1.0", 2)):
            path = models.xgboost_file(Path(folder) / f"{version}.json", seed)
            if version == "1.0.0":
                registry.register_model(MODEL, path, metadata={"version": version}, schema=models.SCHEMA)
            else:
                registry.create_version(MODEL, version, path, schema=models.SCHEMA)
    made = deployments.wait_ready(deployments.deploy(MODEL, "1.0.0").id)
    deployments.deploy(MODEL, "1.1.0")
    deployments.wait_ready(made.id)
    return made.id


def change(deployments: Deployments, gateway: InferenceClient, endpoint: str, number: int) -> float:
    """One change of weight; ms until an answer carries it."""
    version = deployments.set_canary_weight(endpoint, number % 100 + 0.5, wait=False).route_version
    committed = time.perf_counter()
    while (
        gateway.predict(endpoint, [{"amount": 0.5, "hour": 0.5}], unit=f"u{number}").route_version < version
    ):
        if time.perf_counter() - committed > GIVE_UP_S:
            raise SystemExit(f"route version {version} is not applied after {GIVE_UP_S:g} s")
        time.sleep(0.001)
    return (time.perf_counter() - committed) * 1000


def row(measure: str, quantile: float, taken: list[float]) -> dict[str, object]:
    """One row of the table, of all changes."""
    value = round(float(np.quantile(taken, quantile)), 1)
    return {
        "measure": f"{measure} ({len(taken)} changes)",
        "value": value,
        "min": round(min(taken), 1),
        "max": round(max(taken), 1),
        "target": f"≤ {TARGET_MS:g}",
        "holds": value <= TARGET_MS,
    }


if __name__ == "__main__":
    sys.exit(main())
