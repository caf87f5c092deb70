"""`python -m phantom_scanner FILE`: exit 0 where it may be used, 5 where it may not, 2 for a wrong command."""

import argparse
import json
import sys
from pathlib import Path

from phantom_contracts.schema import ModelSchema
from phantom_runtimes.formats import FRAMEWORKS
from phantom_scanner import Report, scan, to_sarif

REFUSED = 5


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="phantom_scanner", description=__doc__)
    parser.add_argument("file", type=Path, help="the model file; its name does not matter")
    parser.add_argument(
        "--framework", choices=sorted(FRAMEWORKS), default="", help="what it was registered as"
    )
    parser.add_argument(
        "--schema", type=Path, help="the model's schema as JSON, to hold its structure against"
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--sarif", action="store_true", help="print SARIF 2.1.0")
    form.add_argument("--json", action="store_true", help="print the report as JSON")
    given = parser.parse_args(arguments)
    try:
        schema = ModelSchema.model_validate_json(given.schema.read_bytes()) if given.schema else None
        report = scan(given.file, framework=given.framework, schema=schema)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    if given.sarif or given.json:
        print(json.dumps(to_sarif(report) if given.sarif else report.to_dict(), indent=2))  # noqa: T201
    else:
        print(_text(report))  # noqa: T201
    return REFUSED if report.blocks else 0


def _text(report: Report) -> str:
    lines = [
        f"{report.verdict}  {report.file} ({report.format}, {report.size} bytes, sha256 {report.sha256[:12]})"
    ]
    lines += [f"  {scan}: {verdict}" for scan, verdict in report.verdicts.items()]
    lines += [f"  not assessed: {scan}: {why}" for scan, why in report.unassessed.items()]
    for each in report.findings:
        lines += [
            f"  {each.severity} {each.id} at {each.location}: {each.evidence}",
            f"    → {each.remediation}",
        ]
    return "\n".join([*lines, *(f"  note: {note}" for note in report.notes)])


if __name__ == "__main__":
    sys.exit(main())
