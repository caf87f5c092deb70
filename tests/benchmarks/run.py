"""Measures serving and writes report.json, report.md and the table: `make bench`. What there is: README.md.

python tests/benchmarks/run.py [--only GROUP[,GROUP]] [--peers] [--rounds 5] [--seconds 3]
"""

from __future__ import annotations

import sys

from harness.main import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
