"""The end of the demo in words: what happened, what holds, how to call what is left running."""

from __future__ import annotations

import sys

from rich.console import Console

from phantom_demo.job import OLD, Result
from phantom_demo.view import Moment, table


def print_summary(result: Result, ready_s: float) -> None:
    """Everything, the broken invariants last and named."""
    console = Console(width=None if sys.stdout.isatty() else 120)
    calls = len(result.ledger.calls)
    console.print(table(Moment(result.elapsed_s, calls, calls, 100, 0, result.revisions)))
    print("(each answered other weeks of April: the share moved from one to the other)")
    print(f"\n{calls:,} calls in {result.elapsed_s:.1f} s ({calls / result.elapsed_s:,.0f}/s), client side:")
    ordered = sorted(call.latency_ms for call in result.ledger.calls)
    print(f"  p50 {ordered[len(ordered) // 2]:.1f} ms, p95 {ordered[int(len(ordered) * 0.95)]:.1f} ms")
    print(f"  stack ready after {ready_s:.1f} s; memory of the stack {result.memory_mb:,.0f} MB (sum of PSS)")
    print("\nthe rollout:")
    for step in result.steps:
        print(f"  {step}")
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
    joined, reported = result.counts["outcomes_joined"], result.ledger.outcomes
    print(f"\noutcomes: {reported:,} reported, {joined:,} joined with their predictions")
    print("\ninvariants:")
    for verdict in result.verdicts:
        print(f"  {'holds ' if verdict.holds else 'BROKEN'}  {verdict.name}: {verdict.evidence}")


def print_how_to_call(stack: dict[str, object], endpoint: str, data_dir: str, dashboard: str) -> None:
    """Copy and paste."""
    gateways = stack["gateways"]
    assert isinstance(gateways, list)
    grpc, http, metrics = (gateways[0][name] for name in ("grpc", "http", "metrics"))
    inputs = (
        '{"name":"carrier","datatype":"BYTES","shape":[1,1],"data":["UA"]},'
        '{"name":"origin","datatype":"BYTES","shape":[1,1],"data":["EWR"]},'
        '{"name":"dest","datatype":"BYTES","shape":[1,1],"data":["IAH"]},'
        '{"name":"weekday","datatype":"FP64","shape":[1,1],"data":[0]},'
        '{"name":"departure_minute","datatype":"FP64","shape":[1,1],"data":[1020]},'
        '{"name":"arrival_minute","datatype":"FP64","shape":[1,1],"data":[1210]},'
        '{"name":"distance","datatype":"FP64","shape":[1,1],"data":[1400]},'
        '{"name":"temp","datatype":"FP64","shape":[1,1],"data":[48]},'
        '{"name":"dewp","datatype":"FP64","shape":[1,1],"data":[40]},'
        '{"name":"humid","datatype":"FP64","shape":[1,1],"data":[70]},'
        '{"name":"wind_dir","datatype":"FP64","shape":[1,1],"data":[250]},'
        '{"name":"wind_speed","datatype":"FP64","shape":[1,1],"data":[12]},'
        '{"name":"wind_gust","datatype":"FP64","shape":[1,1],"data":[20]},'
        '{"name":"precip","datatype":"FP64","shape":[1,1],"data":[0.1]},'
        '{"name":"pressure","datatype":"FP64","shape":[1,1],"data":[1009]},'
        '{"name":"visib","datatype":"FP64","shape":[1,1],"data":[6]}'
    )
    print(f"""
it is still running, from {data_dir}. Call it:

  grpcurl -plaintext -d '{{"name": "{endpoint}"}}' {grpc} inference.GRPCInferenceService/ModelMetadata

  curl -s http://{http}/v2/models/{endpoint}/infer -H 'x-tailnum: N14228' -d '{{"inputs":[{inputs}]}}'

  python - <<'EOF'                               # pip install tritonclient[grpc]
  import tritonclient.grpc as triton
  client = triton.InferenceServerClient("{grpc}")
  print(client.get_model_metadata("{endpoint}"))
  EOF

  metrics     http://{metrics}/metrics (gateway), http://{stack["control_metrics"]}/metrics (control services)
  dashboard   {dashboard} (import it into Grafana)
  state       export PHANTOM_DATA_DIR={data_dir}; .venv/bin/phantom-ml-studio status
  stop        make demo-stop

{OLD} is gone; `phantom-ml-studio deployments show {endpoint}` tells what is there.""")
