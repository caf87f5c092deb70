"""Header blocks of gRPC (RFC 7541): read with the `hpack` library behind two short cuts, written without it.

A client repeats itself: its encoder puts what recurs in the dynamic table, so that most blocks of a connection are the
same few bytes. `HeaderDecoder` therefore remembers what a block meant, for as long as the table stays as it is; a block
with plain literals, which differs from call to call, is read here; everything else is the library's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import hpack
from hpack.table import HeaderTable

Pairs = list[tuple[bytes, bytes]]
Fields = tuple[tuple[bytes, bytes], ...]
ReadT = TypeVar("ReadT")

MAX_HEADER_BYTES = 16 * 1024
# More is not even decoded, which ends the connection.
_MAX_DECODED_BYTES = 4 * MAX_HEADER_BYTES
_ENTRY_OVERHEAD = 32
_REMEMBERED = 64
_MULTI_BYTE, _HUFFMAN = 0x7F, 0x80
_NAME_MULTI_BYTE = 0x0F
_TABLE_BYTES = 4096


class HeaderError(Exception):
    """A block that cannot be decoded: the connection's table is lost with it."""


class TooLargeError(Exception):
    """A block of more than MAX_HEADER_BYTES; the table is as the peer has it, so the connection goes on."""


class _CountedTable(HeaderTable):
    """Tells whether anything was done to it."""

    def __init__(self) -> None:
        super().__init__()
        self.changes = 0

    def add(self, name: bytes, value: bytes) -> None:
        self.changes += 1
        super().add(name, value)

    @property
    def maxsize(self) -> int:
        return int(super().maxsize)

    @maxsize.setter
    def maxsize(self, newmax: int) -> None:
        self.changes += 1
        HeaderTable.maxsize.fset(self, newmax)  # type: ignore[attr-defined]


class HeaderDecoder(Generic[ReadT]):
    """The blocks that come on one connection, each as `read` makes it; the same block may give the same object."""

    def __init__(self, read: Callable[[Pairs], ReadT]) -> None:
        self._read = read
        self._table = _CountedTable()
        self._decoder = hpack.Decoder(max_header_list_size=_MAX_DECODED_BYTES)
        self._decoder.header_table = self._table
        self._remembered: dict[bytes, ReadT] = {}

    def decode(self, block: bytes) -> ReadT:
        """Raises HeaderError, TooLargeError, and what `read` raises."""
        found = self._remembered.get(block)
        if found is not None:
            return found
        pairs = self._plain(block)
        if pairs is None:
            pairs = self._decoded(block)
        read = self._read(pairs)
        if len(self._remembered) >= _REMEMBERED:
            self._remembered.clear()
        if self._is_pure:
            self._remembered[block] = read
        return read

    def _decoded(self, block: bytes) -> Pairs:
        before = self._table.changes
        try:
            pairs: Pairs = [
                (bytes(name), bytes(value)) for name, value in self._decoder.decode(block, raw=True)
            ]
        except (hpack.HPACKError, ValueError, IndexError) as error:
            raise HeaderError(str(error)) from error
        self._is_pure = self._table.changes == before
        if not self._is_pure:
            self._remembered.clear()
        size = sum(len(name) + len(value) + _ENTRY_OVERHEAD for name, value in pairs)
        if size > MAX_HEADER_BYTES:
            raise TooLargeError(f"a header list of {size} bytes; {MAX_HEADER_BYTES} are taken")
        return pairs

    _is_pure = True

    def _plain(self, block: bytes) -> Pairs | None:
        """A block of indexed fields and plain literals outside the table; None where it holds anything else."""
        pairs: Pairs = []
        size, at, end, entry = 0, 0, len(block), self._table.get_by_index
        try:
            while at < end:
                byte = block[at]
                at += 1
                if byte >= 0x80:
                    if byte == 0xFF:
                        return None
                    pair = entry(byte & _MULTI_BYTE)
                elif byte < 0x20:
                    index = byte & _NAME_MULTI_BYTE
                    if index == _NAME_MULTI_BYTE:
                        return None
                    if index:
                        name = entry(index)[0]
                    else:
                        length = block[at]
                        if length >= _MULTI_BYTE:
                            return None
                        name = block[at + 1 : at + 1 + length]
                        at += 1 + length
                    length = block[at]
                    if length >= _MULTI_BYTE:
                        return None
                    at += 1
                    pair = (name, block[at : at + length])
                    at += length
                else:
                    return None
                size += len(pair[0]) + len(pair[1]) + _ENTRY_OVERHEAD
                pairs.append(pair)
        except (IndexError, hpack.HPACKError):
            return None  # the library says what is wrong
        if at != end or size > MAX_HEADER_BYTES:
            return None
        self._is_pure = True
        return pairs


def literal(name: bytes, value: bytes) -> bytes:
    """A field outside the table, its name spelled out (RFC 7541 §6.2.2)."""
    return b"\x00" + text(name) + text(value)


def text(value: bytes) -> bytes:
    """A string of a block, its length before it (RFC 7541 §5.2)."""
    length = len(value)
    if length < _MULTI_BYTE:
        return bytes((length,)) + value
    out = bytearray((_MULTI_BYTE,))
    length -= _MULTI_BYTE
    while length >= 0x80:
        out.append(length & 0x7F | 0x80)
        length >>= 7
    out.append(length)
    return bytes(out) + value


class HeaderEncoder:
    """What one side repeats on a connection goes into the peer's table, once; all else is written as it is.

    Only a few short fields are ever added: nothing is evicted, and an index moves only by what is added later.
    """

    def __init__(self) -> None:
        self._added: dict[tuple[bytes, bytes], int] = {}
        self._size = 0
        self._is_on = True
        # A change of the table's size, due at the start of the next block (RFC 7541 §4.2).
        self._start = b""
        # Blocks that stay as they are until another field is added.
        self._blocks: dict[tuple[bytes, Fields], bytes] = {}

    def limit(self, table_bytes: int) -> None:
        """How large the peer's table may be; with less than the usual 4096 bytes it is left alone from now on."""
        if self._is_on and table_bytes < _TABLE_BYTES:
            self._is_on = False
            self._added.clear()
            self._blocks.clear()
            self._start = b"\x20"

    def start(self) -> bytes:
        """What a block begins with."""
        if not self._start:
            return b""
        start, self._start = self._start, b""
        return start

    def block(self, first: bytes, fields: Fields) -> bytes:
        """What a block begins with: fields of the static table, and those that will come again."""
        known = self._blocks.get((first, fields))
        if known is not None:
            return known
        added, start = len(self._added), self.start()
        made = b"".join((start, first, *[self.repeated(name, value) for name, value in fields]))
        if len(self._added) == added and not start:
            self._blocks[(first, fields)] = made
        return made

    def repeated(self, name: bytes, value: bytes) -> bytes:
        """A field that will come again."""
        place = self._added.get((name, value))
        if place is not None:
            return bytes((0x80 | 61 + len(self._added) - place,))
        size = len(name) + len(value) + _ENTRY_OVERHEAD
        if not self._is_on or self._size + size > _TABLE_BYTES or len(self._added) >= _REMEMBERED:
            return literal(name, value)
        self._size += size
        self._added[(name, value)] = len(self._added)
        self._blocks.clear()
        return b"\x40" + text(name) + text(value)
