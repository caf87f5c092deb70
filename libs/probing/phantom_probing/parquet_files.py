"""Parquet files, which pack well: a few kilobytes may stand for gigabytes. Importing this takes 40 MB."""

from __future__ import annotations

from typing import Any

from pyarrow import BufferReader, parquet, types
from pyarrow import compute as pc

from phantom_probing.bounds import Bounds

_TEXTS = "BYTE_ARRAY"
_FIXED = "FIXED_LEN_BYTE_ARRAY"


def read(content: bytes, bounds: Bounds) -> dict[str, list[Any]]:
    """The flat columns. ValueError or OSError where it is no parquet file, TooLarge before anything large is made."""
    file = parquet.ParquetFile(BufferReader(content))
    _check(file.metadata, bounds)
    names = [field.name for field in file.schema_arrow]
    if len(set(names)) != len(names):
        raise ValueError("it has two columns of one name")
    flat = [field.name for field in file.schema_arrow if not types.is_nested(field.type)]
    texts = [
        column.path
        for column in map(file.metadata.schema.column, range(file.metadata.num_columns))
        if column.physical_type == _TEXTS and column.path in flat
    ]
    # As the file packs them: one long text may be that of a million rows.
    wanted = flat if len(flat) < len(names) else None
    packed = parquet.ParquetFile(BufferReader(content), read_dictionary=texts).read(columns=wanted)
    bounds.check("bytes of texts", sum(_length(packed.column(name)) for name in texts), bounds.unpacked)
    return {name: packed.column(name).to_pylist() for name in flat}


def _check(metadata: Any, bounds: Bounds) -> None:
    """By what the file says of itself, which is what the reader makes room by: rows, and every chunk's values."""
    bounds.check_shape(metadata.num_rows, metadata.num_columns)
    groups = [metadata.row_group(place) for place in range(metadata.num_row_groups)]
    chunks = [group.column(place) for group in groups for place in range(group.num_columns)]
    bounds.check("cells", sum(chunk.num_values for chunk in chunks), bounds.cells)
    unpacked = sum(max(group.total_byte_size, 0) for group in groups)
    unpacked = max(unpacked, sum(max(chunk.total_uncompressed_size, 0) for chunk in chunks))
    columns = map(metadata.schema.column, range(metadata.num_columns))
    fixed = sum(column.length for column in columns if column.physical_type == _FIXED)
    bounds.check("bytes unpacked", max(unpacked, fixed * metadata.num_rows), bounds.unpacked)


def _length(column: Any) -> int:
    """Bytes of a column of texts once each row has its own."""
    total = 0
    for chunk in column.chunks:
        if types.is_dictionary(chunk.type):
            lengths = pc.take(pc.binary_length(chunk.dictionary), chunk.indices)
        elif types.is_decimal(chunk.type):
            continue  # of fixed width
        else:
            lengths = pc.binary_length(chunk)
        total += pc.sum(pc.cast(lengths, "int64")).as_py() or 0
    return total
