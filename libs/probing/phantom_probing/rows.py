"""Rows as a model's schema has them, and the OIP request that carries them."""

from __future__ import annotations

import struct
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from inference import grpc_service_pb2 as oip
from phantom_contracts.schema import Feature, ModelSchema

Numbers = npt.NDArray[np.float64]
Column = Numbers | list[str]
"""Of one feature: numbers with NaN where missing, or texts, empty where missing."""


@dataclass(frozen=True)
class Rows:
    """Columns of equal length by feature name. An optional feature may be absent as a whole."""

    columns: Mapping[str, Column]
    count: int

    def take(self, places: Sequence[int] | npt.NDArray[np.intp]) -> Rows:
        """These rows, in this order."""
        chosen = np.asarray(places, dtype=np.intp)
        taken: dict[str, Column] = {
            name: [column[place] for place in chosen] if isinstance(column, list) else column[chosen]
            for name, column in self.columns.items()
        }
        return Rows(taken, len(chosen))

    def part(self, start: int, stop: int) -> Rows:
        """Rows [start, stop)."""
        taken = {name: column[start:stop] for name, column in self.columns.items()}
        return Rows(taken, max(0, min(stop, self.count) - start))

    def only(self, names: Container[str]) -> Rows:
        """Without the columns that are not among these."""
        return Rows({name: column for name, column in self.columns.items() if name in names}, self.count)


def request(model_name: str, rows: Rows, model_version: str = "", request_id: str = "") -> bytes:
    """A serialized ModelInferRequest with one raw tensor [rows, 1] a feature: FP64, or BYTES for texts."""
    message = oip.ModelInferRequest(model_name=model_name, model_version=model_version, id=request_id)
    for name, column in rows.columns.items():
        is_text = isinstance(column, list)
        message.inputs.add(name=name, datatype="BYTES" if is_text else "FP64", shape=[rows.count, 1])
        raw = _texts(column) if isinstance(column, list) else np.ascontiguousarray(column, "<f8").tobytes()
        message.raw_input_contents.append(raw)
    return message.SerializeToString()


def _texts(column: list[str]) -> bytes:
    parts: list[bytes] = []
    for text in column:
        content = text.encode()
        parts += (struct.pack("<I", len(content)), content)
    return b"".join(parts)


def invented(schema: ModelSchema, count: int, seed: int = 0) -> Rows:
    """Rows that the schema allows, for measuring where no real ones are: normal numbers, any category."""
    random = np.random.default_rng(seed)
    return Rows({feature.name: _invented(feature, count, random) for feature in schema.features}, count)


def _invented(feature: Feature, count: int, random: np.random.Generator) -> Column:
    if feature.type == "string":
        places = random.integers(0, len(feature.categories), count)
        return [feature.categories[place] for place in places]
    if feature.type == "bool":
        return random.integers(0, 2, count).astype(np.float64)
    if feature.type == "int":
        return random.integers(0, 100, count).astype(np.float64)
    return random.normal(size=count)
