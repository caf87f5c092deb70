"""An OIP request → the endpoint's columns (contracts §6), in two steps: its form, and by that its values."""

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
    check_count,
    check_length,
    from_raw,
    from_typed,
    raw_contents,
    raw_texts,
    shown,
    typed_texts,
    wrong,
)
from phantom_platform.errors import Invalid

if TYPE_CHECKING:
    from inference.grpc_service_pb2 import ModelInferRequest

    Tensor = ModelInferRequest.InferInputTensor

Places = npt.NDArray[np.intp]

WHOLE = ("<f4", "<f8")
"""Layouts whose bytes are the numbers as they are used."""


@dataclass(slots=True)
class Rows:
    """One request's rows as the endpoint's columns."""

    count: int
    columns: int
    kind: type  # of the numbers: np.float32 or np.float64
    values: Numbers | bytes  # [rows, number columns], NaN where missing; as bytes where they came just so
    texts: list[list[str] | None]  # a text column each; None where it did not come, empty text where missing
    codes: Numbers | None  # [rows, the model's categories]; None where it has none
    missing: int  # optional features of the model that did not come, times rows
    unknown: int  # categories that the model's schema does not list
    is_raw: bool

    @property
    def numbers(self) -> Numbers:
        """[rows, number columns]; NaN where missing."""
        if isinstance(self.values, bytes):
            return np.frombuffer(self.values, dtype=self.kind).reshape(self.count, self.columns)
        return self.values


@dataclass(frozen=True, slots=True)
class Form:
    """How the tensors of a request fall into the endpoint's columns: all that can be said without their values."""

    names: tuple[str, ...]
    rows: int
    width: int  # of the single tensor; 0 where there is one a feature
    groups: tuple[tuple[str, tuple[int, ...], Places], ...]  # datatype, inputs, number columns
    texts: tuple[tuple[int, int], ...]  # input, text column
    kind: type
    missing: int
    whole: int  # bytes of the single tensor where they are the rows just as they are used; else -1


class Decoder:
    """Decodes the requests of one endpoint for one model."""

    def __init__(self, projection: Projection) -> None:
        self.projection = projection
        self._takes_matrix = MATRIX not in projection.columns
        self._columns = len(projection.number_columns)

    def decode(self, request: ModelInferRequest) -> Rows:
        """The request's rows. Raises Invalid that names the tensor, what was expected and what came."""
        if request.raw_input_contents:
            return self.decode_raw(request)[1]
        form = self._form(request.inputs)
        return self._rows(form, _Typed(form, request.inputs))

    def decode_raw(self, request: ModelInferRequest) -> tuple[Form, Rows]:
        """The same for one with raw contents, and its form, which `rows` takes for another of the same form."""
        if not request.inputs:
            raise self._no_tensor()
        raw = raw_contents(request)
        form = self._form(request.inputs)
        return form, self.rows(form, raw)

    def rows(self, form: Form, raw: Sequence[bytes]) -> Rows:
        """The rows of raw contents. Raises Invalid where they are not as long as the form has it."""
        if form.whole >= 0 and len(raw) == 1 and len(raw[0]) == form.whole:
            return Rows(form.rows, form.width, form.kind, raw[0], [], None, form.missing, 0, True)
        check_count(len(raw), len(form.names))
        return self._rows(form, _Raw(form, raw))

    def _rows(self, form: Form, source: _Raw | _Typed) -> Rows:
        projection, rows = self.projection, form.rows
        # lengths are checked before anything is made as large as a shape claims to be
        parts = [
            (columns, source.numbers(datatype, inputs, form.width or 1))
            for datatype, inputs, columns in form.groups
        ]
        found: list[list[str] | None] = [None] * len(projection.text_columns)
        for place, column in form.texts:
            found[column] = source.texts(place)
        if form.width == self._columns and form.width:
            values: Numbers = parts[0][1].reshape(rows, form.width)
        else:
            values = np.full((rows, self._columns), np.nan, dtype=form.kind)
            for columns, flat in parts:
                values[:, columns] = flat.reshape(rows, -1) if form.width else flat.reshape(-1, rows).T
        codes, unknown = projection.codes(found, rows)
        return Rows(
            rows, self._columns, form.kind, values, found, codes, form.missing, unknown, source.is_raw
        )

    def _form(self, inputs: Sequence[Tensor]) -> Form:
        if not inputs:
            raise self._no_tensor()
        if len(inputs) == 1 and self._takes_matrix and inputs[0].name == MATRIX:
            return self._matrix_form(inputs[0])
        return self._named_form(inputs)

    def _matrix_form(self, tensor: Tensor) -> Form:
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
        missing = self._missing_at(width, list(shape))
        rows = _row_count(MATRIX, shape[0])
        layout, _, kind = NUMERIC[datatype]
        is_whole = width == self._columns and layout in WHOLE and not projection.text_features
        whole = rows * width * np.dtype(layout).itemsize if is_whole else -1
        group = (datatype, (0,), np.arange(width, dtype=np.intp))
        return Form((MATRIX,), rows, width, (group,), (), kind, missing * rows, whole)

    def _missing_at(self, width: int, shape: list[int]) -> int:
        """Optional features of the model beyond this width."""
        accepted = sorted(self.projection.endpoint.accepted_widths)
        if width not in accepted:
            wanted = " or ".join(f"[rows, {each}]" for each in accepted)
            raise wrong("wrong_shape", MATRIX, wanted, str(shape))
        columns = self.projection.endpoint.columns[:width]
        return self.projection.missing(frozenset(column.name for column in columns))

    def _named_form(self, inputs: Sequence[Tensor]) -> Form:
        first = inputs[0].shape
        rows = _row_count(inputs[0].name, first[0] if first else 0)
        names, datatypes = [], []
        for tensor in inputs:
            names.append(tensor.name)
            datatypes.append(tensor.datatype)
            shape = tensor.shape
            dimensions = len(shape)
            if dimensions == 0 or shape[0] != rows or (dimensions > 1 and (dimensions > 2 or shape[1] != 1)):
                self._known(tensor.name)
                raise wrong("wrong_shape", tensor.name, f"[{rows}] or [{rows}, 1]", str(list(shape)))
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
        return Form(
            names=tuple(names),
            rows=rows,
            width=0,
            groups=tuple(
                (datatype, tuple(a), np.array(b, dtype=np.intp)) for datatype, (a, b) in groups.items()
            ),
            texts=tuple(found),
            kind=np.float64 if any(NUMERIC[each][2] is np.float64 for each in groups) else np.float32,
            missing=projection.missing(frozenset(names)) * rows,
            whole=-1,
        )

    def _no_tensor(self) -> Invalid:
        return Invalid(f"the request has no input tensor; {self._expected()}", code="missing_feature")

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


class _Raw:
    """The values of a request that has them as raw bytes."""

    is_raw = True

    def __init__(self, form: Form, raw: Sequence[bytes]) -> None:
        self._form = form
        self._raw = raw

    def numbers(self, datatype: str, inputs: tuple[int, ...], width: int) -> Numbers:
        """Flat values of these inputs, one after the other."""
        count = self._form.rows * width
        for place in inputs:
            check_length(self._form.names[place], datatype, self._raw[place], count)
        return from_raw(datatype, b"".join([self._raw[place] for place in inputs]))

    def texts(self, place: int) -> list[str]:
        """The texts of this input."""
        return raw_texts(self._form.names[place], self._raw[place], self._form.rows)


class _Typed:
    """The values of a request that has them in its tensors."""

    is_raw = False

    def __init__(self, form: Form, inputs: Sequence[Tensor]) -> None:
        self._form = form
        self._inputs = inputs

    def numbers(self, datatype: str, inputs: tuple[int, ...], width: int) -> Numbers:
        """Flat values of these inputs, one after the other."""
        found = [from_typed(self._inputs[place], self._form.rows * width) for place in inputs]
        return np.concatenate(found) if len(found) > 1 else found[0]

    def texts(self, place: int) -> list[str]:
        """The texts of this input."""
        return typed_texts(self._inputs[place], self._form.rows)


def _row_count(tensor: str, rows: int) -> int:
    if rows < 1:
        raise wrong("wrong_shape", tensor, "at least one row", f"{rows} rows")
    return int(rows)
