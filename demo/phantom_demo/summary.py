"""The end of the demo in words: what happened, what holds, how to call what is left running."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from phantom_demo.job import Result
from phantom_demo.view import Moment, table


def print_summary(result: Result, ready_s: float) -> None:
    """Everything, the broken invariants last and named."""
    console = Console(width=None if sys.stdout.isatty() else 120)
    first = result.first
    calls = len(first.ledger.calls)
    console.print(table(Moment(first.elapsed_s, calls, calls, 100, 0, result.revisions)))
    print("(each answered other weeks: the share moved from one to the other)")
    print(
        f"\nApril: {calls:,} calls in {first.elapsed_s:.1f} s ({calls / first.elapsed_s:,.0f}/s), client side:"
    )
    ordered = sorted(call.latency_ms for call in first.ledger.calls)
    print(f"  p50 {ordered[len(ordered) // 2]:.1f} ms, p95 {ordered[int(len(ordered) * 0.95)]:.1f} ms")
    print(f"  stack ready after {ready_s:.1f} s; memory of the stack {first.memory_mb:,.0f} MB (sum of PSS)")
    print("\nthe rollout by hand:")
    for step in first.steps:
        print(f"  {step}")
    print("\nthe rollouts that judged themselves:")
    for each in result.second.outcomes:
        fired = f" by {each.criterion}" if each.criterion else ""
        print(f"  {each.version}: {each.state}{fired} after {each.elapsed_s:.0f} s: {each.reason}")
        if (taken_ms := result.second.taken_back_ms(each)) is not None:
            print(f"    the last call that it answered was sent {taken_ms:,.0f} ms after the verdict")
    print("\nshare of distinct tail numbers on the candidate (99.9 % interval):")
    for share in result.shares:
        inside = (
            "" if share.interval.holds(share.configured) else "  ← outside; one in a thousand is by chance"
        )
        print(
            f"  route {share.route_version}: {share.candidates:,}/{share.units:,}"
            f" = {share.candidates / share.units:.1%} "
            f"[{share.interval.lower:.1%}, {share.interval.upper:.1%}], configured {share.configured:.0%}{inside}"
        )
    joined, reported = result.counts["outcomes_joined"], result.outcomes
    print(f"\noutcomes: {reported:,} reported, {joined:,} joined with their predictions")
    print("\ninvariants:")
    for verdict in result.verdicts:
        print(f"  {'holds ' if verdict.holds else 'BROKEN'}  {verdict.name}: {verdict.evidence}")


# One flight, as a client sends it.
REQUEST: dict[str, tuple[str, str | float]] = {
    "carrier": ("BYTES", "UA"),
    "origin": ("BYTES", "EWR"),
    "dest": ("BYTES", "IAH"),
    "weekday": ("FP64", 0),
    "departure_minute": ("FP64", 1020),
    "arrival_minute": ("FP64", 1210),
    "distance": ("FP64", 719),
    "temp": ("FP64", 48),
    "dewp": ("FP64", 40),
    "humid": ("FP64", 70),
    "wind_dir": ("FP64", 250),
    "wind_speed": ("FP64", 12),
    "wind_gust": ("FP64", 20),
    "precip": ("FP64", 0.1),
    "pressure": ("FP64", 1009),
    "visib": ("FP64", 6),
}


def write_request(path: Path) -> None:
    """The body of an inference request over REST, for `curl -d @file`."""
    tensors = [
        {"name": name, "datatype": datatype, "shape": [1, 1], "data": [value]}
        for name, (datatype, value) in REQUEST.items()
    ]
    path.write_text(json.dumps({"inputs": tensors}, indent=2) + "\n")


def how_to_call(stack: dict[str, Any], endpoint: str, data_dir: Path, dashboard: Path) -> str:
    """What to copy and paste; a test runs each command as it stands here."""
    gateway, request = stack["gateways"][0], data_dir / "request.json"
    return f"""
it is still running, from {data_dir}. Call it:

grpcurl -plaintext -d '{{"name": "{endpoint}"}}' {gateway["grpc"]} inference.GRPCInferenceService/ModelMetadata

curl -s http://{gateway["http"]}/v2/models/{endpoint}/infer -H 'x-tailnum: N14228' -d @{request}

python - <<'EOF'          # pip install 'tritonclient[grpc]'
import json, numpy, tritonclient.grpc as triton
inputs = []
for tensor in json.load(open("{request}"))["inputs"]:
    kind = object if tensor["datatype"] == "BYTES" else numpy.float64
    values = numpy.array([tensor["data"]], dtype=kind)
    inputs.append(triton.InferInput(tensor["name"], values.shape, tensor["datatype"]))
    inputs[-1].set_data_from_numpy(values)
client = triton.InferenceServerClient("{gateway["grpc"]}")
reply = client.infer("{endpoint}", inputs, parameters={{"tailnum": "N14228"}})
print(reply.as_numpy("label"), reply.as_numpy("score"))
EOF

metrics      http://{gateway["metrics"]}/metrics (gateway), http://{stack["control_metrics"]}/metrics (control services)
dashboard    {dashboard} (import it into Grafana)
state        export PHANTOM_DATA_DIR={data_dir}; .venv/bin/phantom-ml-studio status
stop         make demo-stop"""
