"""Looks into model files without running them: what a file is, what it would do when loaded, what it gives away.

Nothing here is ever loaded: pickles go through a symbolic stack machine, archives are read member by member, trees
are checked index by index. `scan` does it in a child process with limits and without the caller's environment.
"""

from phantom_scanner.limits import Limits
from phantom_scanner.report import SCANS, Finding, Report, ScanType, Verdict
from phantom_scanner.sandbox import scan
from phantom_scanner.sarif import to_sarif

__all__ = ["SCANS", "Finding", "Limits", "Report", "ScanType", "Verdict", "scan", "to_sarif"]
