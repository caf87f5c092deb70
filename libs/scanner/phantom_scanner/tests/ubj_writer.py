"""Writes documents as XGBoost's UBJSON, damaged ones too, which XGBoost itself would not."""

import struct


def dumps(value):
    if isinstance(value, dict):
        return b"{" + b"".join(_text(key) + dumps(each) for key, each in value.items()) + b"}"
    if isinstance(value, list):
        return b"[" + b"".join(dumps(each) for each in value) + b"]"
    if isinstance(value, bool):
        return b"T" if value else b"F"
    if isinstance(value, str):
        return b"S" + _text(value)
    if isinstance(value, int):
        return b"L" + struct.pack(">q", value)
    return b"D" + struct.pack(">d", value)


def _text(value):
    raw = value.encode()
    return b"L" + struct.pack(">q", len(raw)) + raw
