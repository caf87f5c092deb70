"""A report as SARIF 2.1.0, which code hosts and security dashboards read."""

from typing import Any

from phantom_scanner.report import SCANS, Finding, Report

_LEVELS = {"critical": "error", "high": "error", "medium": "warning", "low": "warning", "info": "note"}
_SCORES = {"critical": "9.5", "high": "8.0", "medium": "5.0", "low": "3.0", "info": "0.0"}


def to_sarif(report: Report, version: str = "0.1.0") -> dict[str, Any]:
    """The SARIF log. What was not assessed is a notification of level error and an unsuccessful execution."""
    return {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [
            {
                "tool": {"driver": {"name": "phantom-scanner", "version": version, "rules": _rules(report)}},
                "artifacts": [
                    {
                        "location": {"uri": report.file},
                        "length": report.size,
                        "hashes": {"sha-256": report.sha256},
                    }
                ],
                "invocations": [
                    {
                        "executionSuccessful": not report.unassessed,
                        "toolExecutionNotifications": [
                            {"level": "error", "message": {"text": f"{scan} not assessed: {why}"}}
                            for scan, why in report.unassessed.items()
                        ]
                        + [{"level": "note", "message": {"text": note}} for note in report.notes],
                    }
                ],
                "results": [_result(report, finding) for finding in report.findings],
                "properties": {
                    "verdict": report.verdict,
                    "verdicts": {scan: report.verdict_of(scan) for scan in SCANS},
                    "format": report.format,
                    "framework": report.framework,
                },
            }
        ],
    }


def _rules(report: Report) -> list[dict[str, Any]]:
    first: dict[str, Finding] = {}
    for finding in report.findings:
        first.setdefault(finding.id, finding)
    return [
        {
            "id": rule,
            "shortDescription": {"text": f"{finding.scan}: {rule}"},
            "help": {"text": finding.remediation},
            "properties": {"security-severity": _SCORES[finding.severity], "tags": [finding.scan]},
        }
        for rule, finding in first.items()
    ]


def _result(report: Report, finding: Finding) -> dict[str, Any]:
    return {
        "ruleId": finding.id,
        "level": _LEVELS[finding.severity],
        "message": {"text": f"{finding.evidence} ({finding.location})"},
        "locations": [
            {
                "physicalLocation": {"artifactLocation": {"uri": report.file, "index": 0}},
                "logicalLocations": [{"fullyQualifiedName": finding.location}],
            }
        ],
        "properties": {"severity": finding.severity, "by": finding.by},
    }
