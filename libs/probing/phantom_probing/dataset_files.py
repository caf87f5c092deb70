"""The file of a registered dataset: found by its URI inside the folders that may be read, checked by its digest.

Who registers a dataset names a path, and this process reads with rights of its own: nothing outside the roots is
opened, and nothing of a file whose digest is not known beforehand is told. Files may be hostile: what they unpack to is
bounded before, or while, it is read.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import orjson

from phantom_platform.errors import Invalid, NotFound, Refused, Unsupported
from phantom_probing.bounds import Bounds, TooLarge

FORMATS = (".parquet", ".csv", ".jsonl")

Table = dict[str, list[Any]]
"""Columns of equal length; None or an empty text where a value is missing."""


@dataclass(frozen=True)
class Dataset:
    """As it is registered."""

    name: str
    version: str
    uri: str
    digest: str  # sha256:<64 hex> of the file's bytes

    def __str__(self) -> str:
        return f"dataset {self.name} {self.version}"


@dataclass(frozen=True)
class Access:
    """What may be read: files below these folders, once symbolic links are followed."""

    roots: tuple[Path, ...]
    bounds: Bounds = field(default_factory=Bounds)


def table_of(dataset: Dataset, access: Access) -> Table:
    """The file's flat columns: one of lists or objects fits no feature, and is left out. Blocking.

    Raises Unsupported `dataset_uri_unsupported` and `dataset_format_unsupported`, NotFound `dataset_file_missing`,
    Refused `dataset_outside_roots` and `dataset_too_large`, Invalid `dataset_digest_mismatch`, `dataset_unreadable`.
    """
    path = path_of(dataset, access.roots)
    try:
        return _parse(dataset, path, _content(dataset, path, access.bounds), access.bounds)
    except TooLarge as error:
        raise Refused(
            f"{dataset} at {path} has {error}; register a smaller sample of it", code="dataset_too_large"
        ) from error


def path_of(dataset: Dataset, roots: tuple[Path, ...]) -> Path:
    """Where the file is, links followed. Whether there is one is not told of anything outside the roots."""
    named = _named(dataset)
    with suppress(OSError, RuntimeError):  # links in a circle lead nowhere
        path = named.resolve()
        if any(path.is_relative_to(root.resolve()) for root in roots):
            return path
    folders = ", ".join(map(str, roots)) or "no folder"
    raise Refused(
        f"{dataset} is registered at {named}, which is not below a folder that datasets are read from: {folders}; put "
        "the file there and register a new version with that path, or ask the operator to add its folder to "
        "PHANTOM_PIPELINES_DATASET_ROOTS",
        code="dataset_outside_roots",
        path=str(named),
    )


def _named(dataset: Dataset) -> Path:
    """Unsupported `dataset_uri_unsupported` for anything but files of this machine."""
    parts = urlsplit(dataset.uri)
    if "\0" not in unquote(dataset.uri):
        if dataset.uri.startswith("/"):
            return Path(dataset.uri)
        if parts.scheme == "file" and parts.netloc in ("", "localhost") and parts.path.startswith("/"):
            return Path(unquote(parts.path))
    raise Unsupported(
        f"{dataset} is registered at {dataset.uri!r:.200}, which cannot be read here: only file:///absolute/path or "
        "an absolute path; register a new version of it by path",
        code="dataset_uri_unsupported",
        dataset=dataset.name,
        uri=dataset.uri,
    )


def _content(dataset: Dataset, path: Path, bounds: Bounds) -> bytes:
    """The file's bytes, which are then parsed: nobody can change them after the check."""
    if path.suffix.lower() not in FORMATS:
        raise Unsupported(
            f"{dataset} is a file {path.name!r}; read are {', '.join(FORMATS)}",
            code="dataset_format_unsupported",
        )
    try:
        if not path.is_file():
            raise FileNotFoundError
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            # No more than it has: Python makes room for what is asked for.
            content = file.read(min(size, bounds.size) + 1)
    except FileNotFoundError:
        raise NotFound(
            f"{dataset} is registered at {path}, and there is no such file on the machine that evaluates",
            code="dataset_file_missing",
            path=str(path),
        ) from None
    except OSError as error:
        raise Refused(
            f"{dataset} at {path} cannot be read: {error.strerror}", code="dataset_unreadable"
        ) from error
    bounds.check("bytes", len(content), bounds.size)
    # What the file's own digest is stays here: it would tell about bytes that the caller may not know.
    if f"sha256:{hashlib.sha256(content).hexdigest()}" != dataset.digest:
        raise Invalid(
            f"{dataset} is registered with {dataset.digest}, but the bytes of {path} have another digest: the file has "
            "changed, or the digest was taken of other content (its rows, an archive, its source) and not of this "
            "file; register a new version with the file itself",
            code="dataset_digest_mismatch",
            expected=dataset.digest,
        )
    return content


def _parse(dataset: Dataset, path: Path, content: bytes, bounds: Bounds) -> Table:
    read_format: dict[str, Callable[[bytes, Bounds], Table]] = {
        ".csv": _csv,
        ".jsonl": _json_lines,
        ".parquet": _parquet,
    }
    try:
        return read_format[path.suffix.lower()](content, bounds)
    except ImportError as error:
        raise Unsupported(
            f"{dataset} is a parquet file, which needs pyarrow: {error}", code="dataset_format_unsupported"
        ) from error
    except (ValueError, OSError, csv.Error) as error:  # pyarrow raises subclasses of the first two
        raise Invalid(f"{dataset} at {path} cannot be parsed: {error}", code="dataset_unreadable") from error


def _csv(content: bytes, bounds: Bounds) -> Table:
    """UTF-8 with a header line."""
    commas = 0

    def counted() -> Iterator[str]:
        # Before the reader splits it: one row may go over many lines.
        nonlocal commas
        for line in io.StringIO(content.decode("utf-8-sig"), newline=""):
            commas += line.count(",")
            bounds.check("commas in a row", commas, bounds.row_commas)
            yield line

    lines = csv.reader(counted(), strict=True)
    header = next(lines, [])
    if not header or len(set(header)) != len(header):
        raise ValueError("its first line must name every column once")
    found: list[list[str]] = []
    commas = 0
    for row in lines:
        commas = 0
        if row and len(row) != len(header):
            raise ValueError(f"line {lines.line_num} has {len(row)} values, the header {len(header)}")
        if row:
            found.append(row)
            bounds.check_shape(len(found), len(header))
    return {name: [row[place] for row in found] for place, name in enumerate(header)}


def _json_lines(content: bytes, bounds: Bounds) -> Table:
    found: list[dict[str, Any]] = []
    names: dict[str, None] = {}
    for number, line in enumerate(io.BytesIO(content), start=1):
        if not line.strip():
            continue
        bounds.check("bytes in a line", len(line), bounds.line)
        try:
            row = orjson.loads(line)
        except ValueError as error:
            raise ValueError(f"line {number} is no JSON: {error}") from error
        if not isinstance(row, dict):
            raise ValueError(f"line {number} is no JSON object")
        flat = {name: value for name, value in row.items() if not isinstance(value, (dict, list))}
        found.append(flat)
        names.update(dict.fromkeys(flat))
        bounds.check_shape(len(found), len(names))
    return {name: [row.get(name) for row in found] for name in names}


def _parquet(content: bytes, bounds: Bounds) -> Table:
    # Here, as it takes 40 MB of every process that imports it.
    from phantom_probing.parquet_files import read

    return read(content, bounds)
