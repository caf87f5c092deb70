"""What a scan says: a verdict a scan type, findings, and why something was not assessed."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

Severity = Literal["info", "low", "medium", "high", "critical"]
ScanType = Literal["malware_scan", "secret_detection", "structure"]
Verdict = Literal["pass", "fail", "not_assessed"]
SCANS: tuple[ScanType, ...] = get_args(ScanType)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found. `info` findings are for reading; every other severity fails its scan."""

    id: str  # stable rule, e.g. "pickle.global"
    scan: ScanType
    severity: Severity
    location: str  # where in the file, e.g. "byte 41 (STACK_GLOBAL)" or "tree 3, node 7"
    evidence: str
    remediation: str
    by: str = "phantom"  # the tool that says so


@dataclass(slots=True)
class Report:
    """The outcome of one scan of one file."""

    file: str
    sha256: str = ""
    size: int = 0
    format: str = "unknown"
    framework: str = ""
    findings: list[Finding] = field(default_factory=list)
    unassessed: dict[str, str] = field(default_factory=dict)  # scan type → why
    notes: list[str] = field(default_factory=list)
    dropped: int = 0  # findings beyond the limit

    def verdict_of(self, scan: ScanType) -> Verdict:
        if any(finding.scan == scan and finding.severity != "info" for finding in self.findings):
            return "fail"
        return "not_assessed" if scan in self.unassessed else "pass"

    @property
    def verdicts(self) -> dict[ScanType, Verdict]:
        return {scan: self.verdict_of(scan) for scan in SCANS}

    @property
    def verdict(self) -> Verdict:
        found = set(self.verdicts.values())
        return "fail" if "fail" in found else "not_assessed" if "not_assessed" in found else "pass"

    @property
    def blocks(self) -> bool:
        """Whether a gate must stop: what could not be assessed is not a pass."""
        return self.verdict != "pass"

    def add(self, findings: Iterable[Finding], limit: int) -> None:
        for finding in findings:
            if finding in self.findings:
                continue
            if len(self.findings) < limit:
                self.findings.append(finding)
            else:
                self.dropped += 1

    def to_dict(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "verdict": self.verdict,
            "verdicts": self.verdicts,
            "blocks": self.blocks,
        }

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> "Report":
        """A report out of `to_dict`; ValueError or TypeError where it is none."""
        fields = {key: value[key] for key in cls.__dataclass_fields__}
        fields["findings"] = [Finding(**each) for each in fields["findings"]]
        return cls(**fields)


def unassessed(file: str, why: str) -> Report:
    """The report of a scan that did not come to an end."""
    return Report(file, unassessed=dict.fromkeys(SCANS, why))
