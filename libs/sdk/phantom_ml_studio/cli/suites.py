"""`test` and `test-suites`: cases that the endpoints of an environment must pass."""

from __future__ import annotations

from typing import Annotated

import typer

from phantom_ml_studio.cli.output import REFUSED, Format, OutputOption, say, show
from phantom_ml_studio.cli.session import connected

test_suites = typer.Typer(help="Cases that endpoints must pass.", no_args_is_help=True)

_SUITE = ["name", "dataset", "dataset_version", "expected_column", "max_cases", "description", "created_by"]
_RUN = [
    "endpoint",
    "model_version",
    "cases",
    "passed",
    "failed",
    "pass_rate",
    "pass_rate_lower",
    "latency_p95_ms",
    "duration_s",
]
_SAID_FAILURES = 10


def run_tests(
    environment: Annotated[str, typer.Option(help="its endpoints are tested")],
    test_suite: Annotated[str, typer.Option(help="with or without the ending _tests")],
    timeout: Annotated[float, typer.Option(min=1, max=86_400, help="s")] = 300.0,
    endpoint: Annotated[str, typer.Option(help="only this one")] = "",
    dataset: Annotated[str, typer.Option(help="cases other than the suite's")] = "",
    min_pass_rate: Annotated[float, typer.Option(min=0.0, max=1.0, help="of the cases, 0 to 1")] = 1.0,
    output: OutputOption = Format.TABLE,
) -> None:
    """Run a test suite. Exits with 5 where an endpoint does not pass, with 6 where the time was too short."""
    from phantom_ml_studio import TestSuites

    with connected() as client:
        result = TestSuites(client).run(
            test_suite,
            environment,
            endpoint=endpoint,
            dataset=dataset,
            min_pass_rate=min_pass_rate,
            timeout_s=timeout,
        )
    if output is Format.JSON:
        show(result, [], output)
    else:
        show(list(result.runs), _RUN, output)
    for run in result.runs:
        for case in run.failures[:_SAID_FAILURES]:
            what = case.error or f"expected {case.expected}, got {case.got}"
            say(f"{run.endpoint}: case {case.case_id}: {what}")
        if len(run.failures) > _SAID_FAILURES:
            say(f"{run.endpoint}: and others; --output json lists {len(run.failures)} of {run.failed}")
    if not result.passed:
        say(f"error: {test_suite} did not pass in {environment} [tests_failed]")
        raise typer.Exit(REFUSED)


@test_suites.command("create")
def create_suite(
    name: str,
    dataset: Annotated[str, typer.Option(help="a registered dataset: its rows are the cases")],
    dataset_version: Annotated[str, typer.Option(help="by default the newest when it runs")] = "",
    expected_column: Annotated[
        str, typer.Option(help="label or value expected; by default the model's outcome field")
    ] = "",
    tolerance: Annotated[float, typer.Option(min=0.0, help="how far a number may be off")] = 0.0,
    id_column: Annotated[str, typer.Option(help="what cases are called; by default the row's number")] = "",
    max_cases: Annotated[int, typer.Option(min=0, help="evenly spread; 0: all")] = 0,
    description: str = "",
    output: OutputOption = Format.TABLE,
) -> None:
    """Register a suite."""
    from phantom_ml_studio import TestSuites

    with connected() as client:
        made = TestSuites(client).create(
            name,
            dataset,
            dataset_version=dataset_version,
            expected_column=expected_column,
            tolerance=tolerance,
            id_column=id_column,
            max_cases=max_cases,
            description=description,
        )
        show(made, _SUITE, output)


@test_suites.command("list")
def list_suites(output: OutputOption = Format.TABLE) -> None:
    """Every suite."""
    from phantom_ml_studio import TestSuites

    with connected() as client:
        show(TestSuites(client).list(), _SUITE, output)
