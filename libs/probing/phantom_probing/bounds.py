"""How much of a dataset is read into memory."""

from __future__ import annotations

from dataclasses import dataclass


class TooLarge(Exception):
    """It has more of something than is read; the message says of what, and the limit."""


@dataclass(frozen=True)
class Bounds:
    """At most so much of one file. A cell takes about a hundred bytes of this process."""

    size: int = 256 << 20  # bytes of the file
    unpacked: int = 1 << 30  # bytes of a parquet file's values
    rows: int = 1_000_000
    columns: int = 10_000
    cells: int = 10_000_000
    line: int = 4 << 20  # bytes of one line of JSON
    row_commas: int = 1_000_000  # of one row of a CSV file, those inside of texts, too

    def check(self, what: str, count: int, limit: int) -> None:
        """TooLarge where there are more."""
        if count > limit:
            raise TooLarge(f"more than {limit:,} {what}")

    def check_shape(self, rows: int, columns: int) -> None:
        """TooLarge where a table of this shape is not read."""
        self.check("rows", rows, self.rows)
        self.check("columns", columns, self.columns)
        self.check("cells (rows x columns)", rows * columns, self.cells)
