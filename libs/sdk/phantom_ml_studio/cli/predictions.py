"""`predict` and `explain-route`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from phantom_ml_studio.cli.output import USAGE, Format, OutputOption, fail, show
from phantom_ml_studio.cli.rows import Rows, csv_rows, json_rows, read_text
from phantom_ml_studio.cli.session import connected, errors_explained

if TYPE_CHECKING:
    from collections.abc import Callable

    from phantom_ml_studio.inference import InferenceClient, Prediction

T = TypeVar("T")
_EXPLANATION = [
    "endpoint",
    "route_version",
    "hash_field",
    "unit",
    "bucket",
    "arm",
    "revision",
    "model_version",
    "sentence",
]


def predict(
    endpoint: Annotated[str, typer.Argument(help="a deployment, or a model id")],
    json_file: Annotated[
        Path | None, typer.Option("--json", help="a row (object) or a list of rows; - for standard input")
    ] = None,
    csv_file: Annotated[
        Path | None, typer.Option("--csv", help="with a header line; - for standard input")
    ] = None,
    unit: Annotated[str | None, typer.Option(help="value of the endpoint's hash field")] = None,
    version: Annotated[str, typer.Option(help="pin a model version")] = "",
    gateway: Annotated[str | None, typer.Option(help="host:port; the local stack's by default")] = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Ask an endpoint for predictions."""
    if (json_file is None) == (csv_file is None):
        fail("give rows with --json or with --csv", USAGE)
    rows_for = _from_json(json_file) if json_file is not None else _from_csv(endpoint, csv_file or Path("-"))

    def ask(client: InferenceClient) -> Prediction:
        return client.predict(endpoint, rows_for(client), unit=unit, version=version)

    with errors_explained():
        answer = _asked(gateway, ask)
    if output is Format.JSON:
        show(answer, [], output)
        return
    labels = answer.labels or [None] * len(answer.scores)
    table = [
        {"row": i, "label": label, "score": score, "revision": answer.revision, "variant": answer.variant}
        for i, (label, score) in enumerate(zip(labels, answer.scores, strict=True))
    ]
    show(table, ["row", "label", "score", "revision", "variant"], output)


def explain_route(
    endpoint: Annotated[str, typer.Argument(help="a deployment, or a model id")],
    unit: Annotated[str, typer.Argument(help="value of the endpoint's hash field")],
    route_version: Annotated[int, typer.Option(help="0: the newest")] = 0,
    output: OutputOption = Format.TABLE,
) -> None:
    """Which revision a unit gets, and the arithmetic of why. Nothing is sent to the endpoint."""
    from phantom_ml_studio import Deployments

    with connected() as client:
        explanation = Deployments(client).route(endpoint, route_version).explain(unit)
    show(explanation, _EXPLANATION, output)


def _from_json(path: Path) -> Callable[[InferenceClient], Rows]:
    rows = json_rows(path)
    return lambda client: rows


def _from_csv(endpoint: str, path: Path) -> Callable[[InferenceClient], Rows]:
    content = read_text(path)
    return lambda client: csv_rows(path, content, client.text_features(endpoint))


def _asked(gateway: str | None, ask: Callable[[InferenceClient], T]) -> T:
    """Without a token first: a gateway on loopback wants none. One that does gets that of the login."""
    from phantom_ml_studio import InferenceClient, credentials
    from phantom_ml_studio.errors import Unauthenticated

    try:
        with InferenceClient(gateway) as client:
            return ask(client)
    except Unauthenticated:
        with InferenceClient(gateway, credentials.load().token) as client:
            return ask(client)
