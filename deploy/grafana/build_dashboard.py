"""The dashboard from code: `python deploy/grafana/build_dashboard.py` writes dashboards/phantom-overview.json.

`--check` writes nothing and fails where the file is not what this code makes. Import the file into Grafana 11 with a
Prometheus data source that scrapes as deploy/prometheus/prometheus.yml says.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from grafana_foundation_sdk.builders import common as common_builders
from grafana_foundation_sdk.builders import dashboard, prometheus, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common
from grafana_foundation_sdk.models import dashboard as models

from phantom_contracts import metrics

TARGET = Path(__file__).parent / "dashboards" / "phantom-overview.json"
SOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
WIDTH, HEIGHT = 8, 8

# What the variables choose; every family that has an endpoint has a workspace too.
CHOSEN = 'workspace=~"$workspace",endpoint=~"$endpoint"'
BY = "endpoint, revision, variant"
OVER = "[$__rate_interval]"
SERIES = "{{endpoint}} · {{revision}} · {{variant}}"
MONITORED = "{{endpoint}} · {{revision}} · {{arm}}"


@dataclass(frozen=True)
class Query:
    """PromQL and how its series are called."""

    expression: str
    legend: str


@dataclass(frozen=True)
class Panel:
    """One time series panel. `unit` is Grafana's; `quiet` panels show 0 where there is nothing to see."""

    title: str
    text: str
    unit: str
    queries: Sequence[Query]
    is_ratio: bool = False
    is_quiet: bool = False
    is_stacked: bool = False


@dataclass(frozen=True)
class Row:
    title: str
    panels: Sequence[Panel] = field(default_factory=tuple)


def _chosen(export: metrics.Export, more: str = "") -> str:
    return f"{export.name}{{{CHOSEN}{more}}}"


def _rate(name: str, more: str = "", by: str = BY) -> str:
    return f"sum by ({by}) (rate({name}{{{CHOSEN}{more}}}{OVER}))"


def _total_rate(name: str) -> str:
    return f"sum(rate({name}{OVER}))"


def _quantile(quantile: str) -> str:
    buckets = _rate("phantom_gateway_latency_seconds_bucket", by=f"{BY}, le")
    return f"histogram_quantile({quantile}, {buckets})"


REQUESTS = "phantom_gateway_requests_total"
ANSWERED = _rate(REQUESTS, ',status="OK"')

TRAFFIC = Row(
    "Traffic",
    (
        Panel(
            "Requests",
            "Calls that ended, by endpoint, revision and arm, as the gateways count them.",
            "reqps",
            (Query(_rate(REQUESTS), SERIES),),
        ),
        Panel(
            "Share",
            "Of the endpoint's calls.",
            "percentunit",
            (
                Query(
                    f"{_rate(REQUESTS)} / on (endpoint) group_left () {_rate(REQUESTS, by='endpoint')}",
                    SERIES,
                ),
            ),
            is_ratio=True,
            is_stacked=True,
        ),
        Panel(
            "Not answered with OK",
            "Share of calls whose final status was another one, after retries.",
            "percentunit",
            (Query(f"1 - {ANSWERED} / {_rate(REQUESTS)}", SERIES),),
        ),
        Panel(
            "Latency at the gateway",
            "Received to answered, from the gateways' histograms: now, at their resolution.",
            "s",
            (Query(_quantile("0.5"), f"p50 {SERIES}"), Query(_quantile("0.95"), f"p95 {SERIES}")),
        ),
        Panel(
            "Latency of the last complete minute",
            "From the monitor's sketches, within 1 %; p95 is absent below 73 requests.",
            "ms",
            tuple(
                Query(
                    _chosen(metrics.PREDICTION_LATENCY, f',quantile="{metrics.quantile_label(percentile)}"'),
                    f"p{percentile} {MONITORED}",
                )
                for percentile in (50, 95)
            ),
        ),
        Panel(
            "Failed attempts",
            "Share of the last complete minute's attempts that failed, charged to the revision that failed, "
            "also where a retry then served the call.",
            "percentunit",
            (Query(_chosen(metrics.ERROR_RATE), MONITORED),),
        ),
    ),
)

QUALITY = Row(
    "Quality",
    (
        Panel(
            "Accuracy",
            "Of matured predictions of 24 h whose label is known, with its 95 % interval.",
            "percentunit",
            (
                Query(_chosen(metrics.ACCURACY), MONITORED),
                Query(_chosen(metrics.ACCURACY_LOWER), f"lower {MONITORED}"),
                Query(_chosen(metrics.ACCURACY_UPPER), f"upper {MONITORED}"),
            ),
        ),
        Panel(
            "Log loss",
            "Mean over the same predictions, nats.",
            "none",
            (Query(_chosen(metrics.LOG_LOSS), MONITORED),),
        ),
        Panel(
            "Label coverage",
            "Share of matured predictions whose label is known. Compare accuracies only where this is alike.",
            "percentunit",
            (Query(_chosen(metrics.LABEL_COVERAGE), MONITORED),),
            is_ratio=True,
        ),
        Panel(
            "Predicted classes",
            "Rows by predicted label.",
            "rowsps",
            (
                Query(
                    _rate(metrics.CLASSES.name, by="endpoint, revision, label"),
                    "{{endpoint}} · {{revision}} · {{label}}",
                ),
            ),
        ),
        Panel(
            "Outcomes",
            "Reported outcomes by what became of them. Waiting ones came before their prediction.",
            "none",
            (Query(_chosen(metrics.OUTCOMES), "{{endpoint}} · {{result}}"),),
        ),
        Panel(
            "Windows",
            "5 s windows that the monitor keeps. Partial ones wait for a gateway.",
            "none",
            (Query(_chosen(metrics.WINDOWS), "{{endpoint}} · {{state}}"),),
        ),
    ),
)

ROUTING = Row(
    "Routing and replicas",
    (
        Panel(
            "Applied route version",
            "By gateway process. A process below the others serves an old route.",
            "none",
            (Query(f"phantom_gateway_route_version{{{CHOSEN}}}", "{{endpoint}} · {{instance}}"),),
        ),
        Panel(
            "Retries and fallbacks",
            "Further attempts, and answers of the stable revision in place of the assigned one.",
            "ops",
            (
                Query(_total_rate("phantom_gateway_retries_total"), "retries"),
                Query(_total_rate("phantom_gateway_fallbacks_total"), "fallbacks"),
            ),
        ),
        Panel(
            "Shed and refused",
            "Calls shed because too many were under way, and calls that left no record, by reason.",
            "ops",
            (
                Query(_total_rate("phantom_gateway_shed_total"), "shed"),
                Query(f"sum by (reason) (rate(phantom_gateway_refused_total{OVER}))", "refused: {{reason}}"),
            ),
        ),
        Panel(
            "Replicas",
            "By deployment and phase.",
            "none",
            (
                Query(
                    'sum by (deployment, phase) (phantom_deployer_replicas{workspace=~"$workspace"})',
                    "{{deployment}} · {{phase}}",
                ),
            ),
        ),
        Panel(
            "Replica starts and stops",
            "What the deployer did to processes in 5 minutes. A launch without a rollout is a restart.",
            "none",
            (
                Query(
                    "sum by (kind, outcome) (increase(phantom_deployer_effects_total[5m]))",
                    "{{kind}} · {{outcome}}",
                ),
            ),
            is_quiet=True,
        ),
        Panel(
            "Rows at the model servers",
            "Rows answered, by revision.",
            "rowsps",
            (
                Query(
                    f"sum by (revision) (rate(phantom_model_rows_total{OVER}) * on (instance) "
                    'group_left (revision) phantom_model_info{workspace=~"$workspace"})',
                    "{{revision}}",
                ),
            ),
        ),
    ),
)

EVENTS = Row(
    "Events",
    (
        Panel(
            "Outbox",
            "Events committed and not yet acknowledged by Kafka.",
            "none",
            (Query("sum by (service) (phantom_outbox_depth)", "{{service}}"),),
        ),
        Panel(
            "Consumer lag",
            "Records not yet applied.",
            "none",
            (Query("sum by (group, topic) (phantom_consumer_lag_records)", "{{group}} · {{topic}}"),),
        ),
        Panel(
            "Dead letters",
            "In 5 minutes: records put aside, and records of compacted topics that could not be read. "
            "See `phantom-ml-studio dlq list`.",
            "none",
            (
                Query(
                    'sum by (group, topic) (increase(phantom_consumer_records_total{outcome="dead"}[5m]))',
                    "{{group}} · {{topic}}",
                ),
                Query(
                    "sum by (topic) (increase(phantom_projection_bad_records_total[5m]))", "bad · {{topic}}"
                ),
            ),
            is_quiet=True,
        ),
        Panel(
            "Prediction log: spill",
            "Bytes on the gateways' disks that wait for Kafka.",
            "bytes",
            (Query("sum by (instance) (phantom_gateway_spill_bytes)", "{{instance}}"),),
        ),
        Panel(
            "Prediction log: lost",
            "Records dropped because the spill was full. Anything above zero is a gap in the log.",
            "none",
            (Query("sum(increase(phantom_gateway_predictions_dropped_total[5m]))", "dropped"),),
        ),
        Panel(
            "Records applied",
            "What consumers did with what they read.",
            "ops",
            (
                Query(
                    f"sum by (group, outcome) (rate(phantom_consumer_records_total{OVER}))",
                    "{{group}} · {{outcome}}",
                ),
            ),
        ),
    ),
)

ROWS = (TRAFFIC, QUALITY, ROUTING, EVENTS)


def build() -> str:
    """The dashboard as JSON, always the same text for the same code."""
    board = (
        dashboard.Dashboard("Phantom: overview")
        .uid("phantom-overview")
        .description("What is served, how fast, how well, and whether the machinery behind it keeps up.")
        .tags(["phantom"])
        .timezone("browser")
        .time("now-30m", "now")
        .refresh("10s")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
        .with_variable(
            _variable("workspace", "Workspace", "label_values(phantom_gateway_requests_total, workspace)")
        )
        .with_variable(
            _variable(
                "endpoint",
                "Endpoint",
                'label_values(phantom_gateway_requests_total{workspace=~"$workspace"}, endpoint)',
            )
        )
    )
    number = 0
    for row_index, row in enumerate(ROWS):
        board.with_row(dashboard.Row(row.title).id(100 * (row_index + 1)))
        for panel in row.panels:
            number += 1
            board.with_panel(_panel(panel).id(number))
    return JSONEncoder(sort_keys=True, indent=2, ensure_ascii=False).encode(board.build()) + "\n"


def _variable(name: str, label: str, query: str) -> dashboard.QueryVariable:
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .query(query)
        .datasource(SOURCE)
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".*")
    )


def _panel(panel: Panel) -> timeseries.Panel:
    built = (
        timeseries.Panel()
        .title(panel.title)
        .description(panel.text)
        .datasource(SOURCE)
        .unit(panel.unit)
        .min(0)
        .span(WIDTH)
        .height(HEIGHT)
        .legend(
            common_builders.VizLegendOptions()
            .display_mode(common.LegendDisplayMode.LIST)
            .placement(common.LegendPlacement.BOTTOM)
            .show_legend(True)
        )
    )
    if panel.is_ratio:
        built.max(1)
    if panel.is_quiet:
        built.no_value("0")
    if panel.is_stacked:
        built.stacking(common_builders.StackingConfig().mode(common.StackingMode.NORMAL)).fill_opacity(30)
    for index, query in enumerate(panel.queries):
        built.with_target(
            prometheus.Dataquery()
            .ref_id(chr(ord("A") + index))
            .datasource(SOURCE)
            .expr(query.expression)
            .legend_format(query.legend)
            .range()
        )
    return built


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description="Write the Grafana dashboard.")
    parser.add_argument(
        "--check", action="store_true", help="write nothing; fail where the file is out of date"
    )
    wanted = parser.parse_args(arguments)
    made = build()
    if wanted.check:
        found = TARGET.read_text("utf-8") if TARGET.exists() else ""
        if found != made:
            sys.stderr.write(f"{TARGET} is not what the code makes; run python {Path(__file__).name}\n")
            return 1
        return 0
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_text(made, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
