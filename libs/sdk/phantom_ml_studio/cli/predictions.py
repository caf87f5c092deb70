"""`predict` and `explain-route`."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from phantom_ml_studio.cli.output import USAGE, Format, OutputOption, errors_explained, fail, show

Rows = list[dict[str, Any]]


def predict(
    endpoint: Annotated[str, typer.Argument(help="a deployment, or a model id")],
    json_file: Annotated[
        Path | None, typer.Option("--json", help="a row (object) or a list of rows; - for standard input")
    ] = None,
    csv_file: Annotated[
        Path | None, typer.Option("--csv", help="with a header line; - for standard input")
    ] = None,
    unit: Annotated[str | None, typer.Option(help="value of the endpoint's hash field")] = None,
    hash_field: Annotated[str, typer.Option(help="the endpoint's hash field")] = "user_id",
    version: Annotated[str, typer.Option(help="pin a model version")] = "",
    gateway: Annotated[str | None, typer.Option(help="host:port; the local stack's by default")] = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Ask an endpoint for predictions."""
    from phantom_ml_studio import InferenceClient

    if (json_file is None) == (csv_file is None):
        fail("give rows with --json or with --csv", USAGE)
    rows = _json_rows(json_file) if json_file is not None else _csv_rows(csv_file or Path("-"))
    with errors_explained():
        answer = InferenceClient(gateway).predict(
            endpoint, rows, unit=unit, hash_field=hash_field, version=version
        )
    if output is Format.JSON:
        show(answer, [], output)
        return
    columns = {"row": range(len(rows)), "label": answer.labels, "score": answer.scores}
    table = [
        {name: values[i] if i < len(values) else None for name, values in columns.items()}
        | {"revision": answer.revision, "variant": answer.variant}
        for i in range(len(rows))
    ]
    show(table, ["row", "label", "score", "revision", "variant"], output)


def explain_route(
    endpoint: Annotated[str, typer.Argument(help="a deployment, or a model id")],
    unit: Annotated[str, typer.Argument(help="value of the endpoint's hash field")],
    route_version: Annotated[int, typer.Option(help="0: the newest")] = 0,
    output: OutputOption = Format.TABLE,
) -> None:
    """Which revision a unit gets, and the arithmetic of why. Nothing is sent to the endpoint."""
    from phantom_ml_studio import Client, Deployments

    with errors_explained(), Client() as client:
        explanation = Deployments(client).route(endpoint, route_version).explain(unit)
    columns = ["endpoint", "route_version", "unit", "bucket", "arm", "revision", "model_version", "sentence"]
    show(explanation, columns, output)


def _text(path: Path) -> str:
    try:
        return sys.stdin.read() if str(path) == "-" else path.read_text()
    except OSError as error:
        fail(str(error), USAGE)


def _json_rows(path: Path) -> Rows:
    try:
        content = json.loads(_text(path))
    except ValueError as error:
        fail(f"{path} is not JSON: {error}", USAGE)
    rows = content if isinstance(content, list) else [content]
    if not rows or not all(isinstance(row, dict) for row in rows):
        fail(f"{path} holds neither a row (an object) nor a list of rows", USAGE)
    return rows


def _csv_rows(path: Path) -> Rows:
    rows = [
        {k: _number(v) for k, v in row.items() if k is not None}
        for row in csv.DictReader(_text(path).splitlines())
    ]
    if not rows:
        fail(f"{path} has no rows below its header", USAGE)
    return rows


def _number(text: str | None) -> float | str | None:
    if text is None or text == "":
        return None
    try:
        return float(text)
    except ValueError:
        return text
