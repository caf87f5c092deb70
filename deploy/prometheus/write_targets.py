"""Where the metrics of a running local stack are, as Prometheus reads it (file_sd).

`python deploy/prometheus/write_targets.py [--data-dir D] [--output F]` reads what `up` and the model servers write
about themselves, and replaces F (targets.json beside this file) by rename.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from phantom_platform.settings import DataSettings

OUTPUT = Path(__file__).parent / "targets.json"


def targets(data_dir: Path) -> list[dict[str, Any]]:
    """One group a process: its address, and `process` as a label. FileNotFoundError where no stack was started."""
    stack = json.loads((data_dir / "run" / "stack.json").read_text("utf-8"))
    found = {"control": stack.get("control_metrics")}
    found |= {each["name"]: each.get("metrics") for each in stack.get("gateways", ())}
    found |= dict(_replicas(data_dir / "replicas"))
    return [
        {"targets": [address], "labels": {"process": name}}
        for name, address in sorted(found.items())
        if address
    ]


def _replicas(folder: Path) -> Iterator[tuple[str, str]]:
    for path in folder.glob("*.json"):
        if path.name.endswith(".launch.json"):
            continue
        replica = json.loads(path.read_text("utf-8"))
        if replica.get("state") == "ready":
            yield f"replica {replica['replica_id']}", replica.get("http_address", "")


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description="Write where Prometheus finds the metrics of a local stack.")
    parser.add_argument("--data-dir", type=Path, default=DataSettings().data_dir)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    wanted = parser.parse_args(arguments)
    try:
        found = targets(wanted.data_dir)
    except FileNotFoundError:
        sys.stderr.write(f"no stack runs from {wanted.data_dir}: start one with `phantom-ml-studio up`\n")
        return 1
    written = wanted.output.with_name(f".{wanted.output.name}.new")
    written.write_text(json.dumps(found, indent=2) + "\n", "utf-8")
    written.replace(wanted.output)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
