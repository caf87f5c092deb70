"""Where the pickle in a numpy file begins, if its array holds objects."""

import ast
import struct


def pickle_offset(data: bytes) -> int | None:
    """The offset of the pickle; None where the array is plain numbers. ValueError where it is no numpy file."""
    if len(data) < 12 or data[6] not in (1, 2, 3):
        raise ValueError("it is no numpy file of a known version")
    start = 10 if data[6] == 1 else 12
    (size,) = struct.unpack_from("<H" if data[6] == 1 else "<I", data, 8)
    if size > 65_536 or start + size > len(data):
        raise ValueError("its header is longer than numpy's")
    try:
        header = ast.literal_eval(data[start : start + size].decode("latin-1"))
        descr, order, shape = header["descr"], header["fortran_order"], header["shape"]
    except (SyntaxError, ValueError, KeyError, TypeError, RecursionError, MemoryError) as error:
        raise ValueError("its header is not numpy's") from error
    if not isinstance(order, bool) or not isinstance(shape, tuple) or len(header) != 3:
        raise ValueError("its header is not numpy's")
    return start + size if "O" in str(descr) else None
