"""The texts that a file of any format carries, where secrets can hide."""

import re
from collections.abc import Iterator
from typing import Any

_RUN = re.compile(rb"[\x20-\x7e]{8,4096}")
_WIDE = re.compile(rb"(?:[\x20-\x7e]\x00){8,2048}")
_MAX_LINE = 4096

Text = tuple[str, str, bool]  # (where, line, is it a named value?)


def runs(data: bytes, where: str = "byte") -> Iterator[Text]:
    """Printable runs of single and double-byte text, with their offsets."""
    for found in _RUN.finditer(data):
        yield f"{where} {found.start()}", found.group().decode("ascii"), False
    for found in _WIDE.finditer(data):
        yield f"{where} {found.start()}", found.group().decode("utf-16-le"), False


def document(value: Any, path: str = "") -> Iterator[Text]:
    """Keys and texts of a JSON or UBJ document, each text as `key = "value"` under its path."""
    waiting = [(path, "", value)]
    while waiting:
        where, key, each = waiting.pop()
        if isinstance(each, dict):
            for name, inner in each.items():
                yield where or "top level", str(name)[:_MAX_LINE], False
                waiting.append((f"{where}.{name}".lstrip(".")[:300], str(name), inner))
        elif isinstance(each, list):
            waiting += [
                (f"{where}[{n}]", key, x) for n, x in enumerate(each) if isinstance(x, dict | list | str)
            ]
        elif isinstance(each, str) and each:
            yield where, named(key, each), bool(key)


def onnx(raw: bytes) -> Iterator[Text]:
    """Metadata, names, documentation and text attributes of an ONNX model."""
    from onnx.onnx_ml_pb2 import ModelProto

    model = ModelProto()
    model.ParseFromString(raw)
    for entry in model.metadata_props:
        yield f"metadata_props[{entry.key:.60}]", named(entry.key, entry.value), True
    for name in ("producer_name", "domain", "doc_string"):
        yield from ((name, line[:_MAX_LINE], False) for line in getattr(model, name).splitlines())
    yield from (("graph.doc_string", line[:_MAX_LINE], False) for line in model.graph.doc_string.splitlines())
    for place, node in enumerate(model.graph.node):
        yield f"node {place}", f"{node.name} {node.doc_string}"[:_MAX_LINE], False
        for attribute in node.attribute:
            for text in (attribute.s, *attribute.strings[:100_000]):
                if len(text) >= 8:
                    yield (
                        f"node {place}, {attribute.name}",
                        text.decode("utf-8", "replace")[:_MAX_LINE],
                        False,
                    )


def named(key: str, value: str) -> str:
    """The line that a detector of named secrets looks for."""
    return f'{key[:200]} = "{value[:_MAX_LINE]}"'.replace("\n", " ")
