"""An OIP request → the endpoint's columns (contracts §6). This is the hot path: one pass, numpy for the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from phantom_contracts.schema import Column
from phantom_contracts.tensors import MATRIX
from phantom_model_server.projection import Numbers, Projection
from phantom_model_server.tensors import (
    NUMERIC,
    check_length,
    from_raw,
    from_typed,
    raw_contents,
    shown,
    texts,
    wrong,
)
from phantom_platform.errors import Invalid

if TYPE_CHECKING:
    from inference.grpc_service_pb2 import ModelInferRequest

MAX_PLANS = 256
"""Combinations of named tensors that are remembered; clients of an endpoint use few."""


@dataclass(slots=True)
class Rows:
    """One request's rows as the endpoint's columns."""

    count: int
    numbers: Numbers  # [rows, number columns]; NaN where missing
    texts: list[list[str] | None]  # a text column each; None where it did not come, empty text where missing
    codes: Numbers | None  # [rows, the model's categories]; None where it has none
    missing: int  # optional features of the model that did not come, times rows
    unknown: int  # categories that the model's schema does not list
    is_raw: bool


@dataclass(frozen=True, slots=True)
class _Plan:
    """How the named tensors of a request fall into the endpoint's columns."""

    groups: tuple[tuple[str, tuple[int, ...], npt.NDArray[np.intp]], ...]  # datatype, inputs, number columns
    texts: tuple[tuple[int, int], ...]  # input, text column
    kind: type
    missing: int


class Decoder:
    """Decodes the requests of one endpoint for one model."""

    def __init__(self, projection: Projection) -> None:
        self.projection = projection
        self._takes_matrix = MATRIX not in projection.columns
        self._widths: dict[int, int] = {}
        self._plans: dict[tuple[str, ...], _Plan] = {}

    def decode(self, request: ModelInferRequest) -> Rows:
        """The request's rows. Raises Invalid that names the tensor, what was expected and what came."""
        inputs = request.inputs
        if not inputs:
            raise Invalid(f"the request has no input tensor; {self._expected()}", code="missing_feature")
        raw = raw_contents(request)
        if len(inputs) == 1 and self._takes_matrix and inputs[0].name == MATRIX:
            return self._matrix(inputs[0], raw)
        return self._named(request, raw)

    def _matrix(self, tensor: ModelInferRequest.InferInputTensor, raw: list[bytes] | None) -> Rows:
        projection = self.projection
        if projection.text_columns:
            raise Invalid(
                f"tensor {MATRIX!r}: the endpoint takes text ({', '.join(projection.text_columns[:10])}), so it needs "
                "one tensor a feature",
                code="unknown_feature",
                tensor=MATRIX,
            )
        datatype, shape = tensor.datatype, tensor.shape
        if datatype not in NUMERIC:
            raise wrong("wrong_datatype", MATRIX, "a numeric datatype such as FP32", shown(datatype))
        width = shape[1] if len(shape) == 2 else -1
        missing = self._widths.get(width)
        if missing is None:
            missing = self._missing_at(width, list(shape))
        rows = _row_count(MATRIX, shape[0])
        if raw is None:
            flat = from_typed(tensor, rows * width)
        else:
            check_length(MATRIX, datatype, raw[0], rows * width)
            flat = from_raw(datatype, raw[0])
        numbers = flat.reshape(rows, width)
        if width < len(projection.number_columns):
            whole = np.full((rows, len(projection.number_columns)), np.nan, dtype=numbers.dtype)
            whole[:, :width] = numbers
            numbers = whole
        codes, _ = projection.codes([], rows)
        return Rows(rows, numbers, [], codes, missing * rows, 0, raw is not None)

    def _missing_at(self, width: int, shape: list[int]) -> int:
        """Optional features of the model beyond this width."""
        accepted = sorted(self.projection.endpoint.accepted_widths)
        if width not in accepted:
            wanted = " or ".join(f"[rows, {each}]" for each in accepted)
            raise wrong("wrong_shape", MATRIX, wanted, str(shape))
        columns = self.projection.endpoint.columns[:width]
        self._widths[width] = self.projection.missing(frozenset(column.name for column in columns))
        return self._widths[width]

    def _named(self, request: ModelInferRequest, raw: list[bytes] | None) -> Rows:
        inputs = request.inputs
        key = []
        first = inputs[0].shape
        rows = _row_count(inputs[0].name, first[0] if first else 0)
        for tensor in inputs:
            key.append(tensor.name)
            key.append(tensor.datatype)
            shape = tensor.shape
            dimensions = len(shape)
            if dimensions == 0 or shape[0] != rows or (dimensions > 1 and (dimensions > 2 or shape[1] != 1)):
                self._known(tensor.name)
                raise wrong("wrong_shape", tensor.name, f"[{rows}] or [{rows}, 1]", str(list(shape)))
        plan = self._plans.get(tuple(key)) or self._make_plan(key)
        # lengths are checked before anything is made as large as a shape claims to be
        parts = [_gathered(inputs, raw, rows, datatype, sources) for datatype, sources, _ in plan.groups]
        projection = self.projection
        found: list[list[str] | None] = [None] * len(projection.text_columns)
        for place, column in plan.texts:
            found[column] = texts(inputs[place], None if raw is None else raw[place], rows)
        numbers: Numbers = np.full((rows, len(projection.number_columns)), np.nan, dtype=plan.kind)
        for (_, _, columns), values in zip(plan.groups, parts, strict=True):
            numbers[:, columns] = values.T
        codes, unknown = projection.codes(found, rows)
        return Rows(rows, numbers, found, codes, plan.missing * rows, unknown, raw is not None)

    def _make_plan(self, key: list[str]) -> _Plan:
        names, datatypes = key[::2], key[1::2]
        projection = self.projection
        groups: dict[str, tuple[list[int], list[int]]] = {}
        found: list[tuple[int, int]] = []
        for place, (name, datatype) in enumerate(zip(names, datatypes, strict=True)):
            column = self._known(name)
            if column.type == "string":
                if datatype != "BYTES":
                    raise wrong("wrong_datatype", name, "BYTES", shown(datatype))
                found.append((place, projection.text_places[name]))
                continue
            if datatype not in NUMERIC:
                raise wrong("wrong_datatype", name, f"a numeric datatype for {column.type}", shown(datatype))
            sources, columns = groups.setdefault(datatype, ([], []))
            sources.append(place)
            columns.append(projection.number_places[name])
        if len(set(names)) != len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise Invalid(f"tensor {shown(twice)} comes twice", code="duplicate_tensor", tensor=twice)
        plan = _Plan(
            groups=tuple(
                (datatype, tuple(a), np.array(b, dtype=np.intp)) for datatype, (a, b) in groups.items()
            ),
            texts=tuple(found),
            kind=np.float64 if any(NUMERIC[each][2] is np.float64 for each in groups) else np.float32,
            missing=projection.missing(frozenset(names)),
        )
        if len(self._plans) >= MAX_PLANS:
            self._plans.clear()
        self._plans[tuple(key)] = plan
        return plan

    def _known(self, name: str) -> Column:
        column = self.projection.columns.get(name)
        if column is None:
            raise Invalid(
                f"tensor {shown(name)} is not in the endpoint's schema; {self._expected()}",
                code="unknown_feature",
                tensor=name[:80],
            )
        return column

    def _expected(self) -> str:
        names = [column.name for column in self.projection.endpoint.columns]
        listed = ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
        if self.projection.text_columns or not self._takes_matrix:
            return f"send one tensor a feature: {listed}"
        return f"send one tensor {MATRIX!r} of shape [rows, {len(names)}], or one a feature: {listed}"


def _gathered(
    inputs: Sequence[ModelInferRequest.InferInputTensor],
    raw: list[bytes] | None,
    rows: int,
    datatype: str,
    sources: tuple[int, ...],
) -> Numbers:
    """The values [inputs, rows] of named tensors of one datatype."""
    if raw is None:
        flat = np.concatenate([from_typed(inputs[place], rows) for place in sources])
    else:
        for place in sources:
            check_length(inputs[place].name, datatype, raw[place], rows)
        flat = from_raw(datatype, b"".join([raw[place] for place in sources]))
    gathered: Numbers = flat.reshape(len(sources), rows)
    return gathered


def _row_count(tensor: str, rows: int) -> int:
    if rows < 1:
        raise wrong("wrong_shape", tensor, "at least one row", f"{rows} rows")
    return int(rows)
