"""What stands on the symbolic machine's stack in place of anything real."""

import re
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, eq=False)
class Name:
    """A global that the pickle names. It is never looked up."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(slots=True, eq=False)
class Made:
    """What a call of a name would give."""

    of: Name
    args: tuple[Any, ...]
    state: Any = None
    is_built: bool = False


_BYTES = ("builtins.bytearray", "builtins.bytes", "_codecs.encode")


def bytes_of(value: Any) -> bytes | None:
    """The bytes that a value is, however its protocol writes them; None where it is something else."""
    if isinstance(value, bytes | bytearray):
        return bytes(value)
    if isinstance(value, Made) and value.args and str(value.of) in _BYTES:
        inner = value.args[0]
        return inner.encode("latin-1", "replace") if isinstance(inner, str) else bytes_of(inner)
    return None


class MalformedError(Exception):
    """The stream is no pickle that could be loaded."""


@dataclass(frozen=True, slots=True)
class Dtype:
    """What has to be known of a numpy dtype to step over an array's bytes."""

    itemsize: int
    has_object: bool


_PLAIN = re.compile(r"[|<>=]?([biufcmMOSUV])(\d{0,9})(?:\[[a-zA-Z0-9]{1,8}\])?")


def dtype_of(value: Any, depth: int = 0) -> Dtype:
    """The dtype that a symbolic `numpy.dtype(...)` is; MalformedError where it is not plain."""
    if not isinstance(value, Made) or str(value.of) != "numpy.dtype" or not value.args or depth > 8:
        raise MalformedError("an array has no dtype of numpy's")
    matched = _PLAIN.fullmatch(value.args[0]) if isinstance(value.args[0], str) else None
    if matched is None:
        raise MalformedError(f"an array has the dtype {value.args[0]!r:.40}")
    letter, digits = matched.groups()
    size = int(digits or 0)
    if letter == "V":
        return _record(value.state, size, depth)
    if letter in "SU":
        wanted = size * (4 if letter == "U" else 1)
        _check_state(value.state, (wanted,))
        return Dtype(wanted, False)
    _check_state(value.state, (-1,))
    if letter == "O":
        return Dtype(8, True)
    if not 1 <= size <= 32:
        raise MalformedError(f"an array has the dtype {value.args[0]!r:.40}")
    return Dtype(size, False)


def _check_state(state: Any, sizes: tuple[int, ...]) -> None:
    """numpy's state: (version, order, subarray, names, fields, itemsize, alignment, flags[, metadata])."""
    if state is None:
        return
    if (
        not isinstance(state, tuple)
        or not 8 <= len(state) <= 9
        or any(each is not None for each in state[2:5])
    ):
        raise MalformedError("a dtype's state is not that of a plain dtype")
    if state[5] not in sizes:
        raise MalformedError(f"a dtype's state gives it {state[5]!r:.40} bytes, its name says otherwise")


def _record(state: Any, size: int, depth: int) -> Dtype:
    if state is None:
        return Dtype(size, False)
    if not isinstance(state, tuple) or not 8 <= len(state) <= 9 or state[2] is not None:
        raise MalformedError("a record dtype's state is not a plain one")
    names, fields, itemsize = state[3:6]
    if not isinstance(itemsize, int) or itemsize != size or not isinstance(names, tuple):
        raise MalformedError("a record dtype's size differs from its name's")
    if not isinstance(fields, dict) or set(fields) != set(names):
        raise MalformedError("a record dtype's fields are not those that it names")
    has_object = False
    for field in fields.values():
        if not isinstance(field, tuple) or len(field) not in (2, 3) or not isinstance(field[1], int):
            raise MalformedError("a record dtype's field has no place")
        inner = dtype_of(field[0], depth + 1)
        if field[1] < 0 or field[1] + inner.itemsize > itemsize:
            raise MalformedError("a record dtype's field lies outside the record")
        has_object |= inner.has_object
    return Dtype(itemsize, has_object)
