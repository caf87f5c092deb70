"""Arrays of numbers out of a pickle, made from its bytes by us: nothing of the pickle is called for them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from phantom_scanner.pickles.values import Made, MalformedError, bytes_of, dtype_of


def array_of(value: Any) -> npt.NDArray[Any]:
    """The array that a symbolic one is, in any of the forms that picklers write; MalformedError where it is none."""
    if not isinstance(value, Made):
        raise MalformedError("there is a value where an array belongs")
    name, raw, dtype, shape = value.of.name, None, None, None
    if name == "_reconstruct" and isinstance(value.state, tuple) and len(value.state) == 5:
        _, shape, dtype, _, raw = value.state
    elif name == "_frombuffer" and len(value.args) >= 4:
        raw, dtype, shape = value.args[:3]
    elif name == "ndarray" and len(value.args) == 2:  # joblib's: the wrapper's state and the bytes behind it
        state, raw = value.args
        dtype, shape = state["dtype"], state["shape"]
    content = bytes_of(raw)
    if content is None or not isinstance(shape, tuple):
        raise MalformedError(f"a {value.of} is no array of numbers")
    form = _numpy_dtype(dtype)
    try:
        return np.frombuffer(content, form).reshape(shape)
    except (ValueError, TypeError, OverflowError) as error:
        raise MalformedError(f"an array does not have the size of its shape: {error}") from error


def _numpy_dtype(value: Any) -> np.dtype[Any]:
    """A plain or a record dtype of numbers. `dtype_of` has looked at every text that numpy is given here."""
    found = dtype_of(value)
    if found.has_object:
        raise MalformedError("an array holds objects where numbers belong")
    order = value.state[1] if isinstance(value.state, tuple) and value.state[1] in ("<", ">") else ""
    if value.args[0].lstrip("|<>=").startswith("V") and value.state is not None:
        names, fields = value.state[3:5]
        return np.dtype(
            {
                "names": list(names),
                "formats": [_numpy_dtype(fields[name][0]) for name in names],
                "offsets": [fields[name][1] for name in names],
                "itemsize": found.itemsize,
            }
        )
    form: np.dtype[Any] = np.dtype(order + str(value.args[0]).lstrip("|<>="))
    return form
