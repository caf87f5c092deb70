"""All of a pickled file: each stream of it, what lies behind the last, and pickles inside its bytes."""

import contextlib
import io
import re
from dataclasses import dataclass, field

from phantom_scanner import kinds
from phantom_scanner.limits import Limits
from phantom_scanner.pickles.machine import Complaint, Machine, Seen
from phantom_scanner.pickles.values import MalformedError
from phantom_scanner.unpacking import UnpackError, decompress

_MAX_STREAMS = 64
_PLAUSIBLE = re.compile(rb"\x80[\x00-\x05]|[(\]})lN].?|c[A-Za-z_][\w.]*\n|i[A-Za-z_][\w.]*\n")
_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


@dataclass(slots=True)
class Outcome:
    """What was found in one pickled file."""

    complaints: list[Complaint] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read(data: bytes, framework: str, limits: Limits) -> Outcome:
    """Every stream of the (unpacked) file, read as joblib and as pickle would."""
    outcome = Outcome()
    start, streams = 0, 0
    while start < len(data):
        if streams == _MAX_STREAMS:
            outcome.complaints.append(
                _at(start, "pickle.trailing", f"more than {_MAX_STREAMS} pickles in one file")
            )
            break
        seen = Seen()
        file = io.BytesIO(data)
        file.seek(start)
        outcome.seen.append(seen)
        try:
            Machine(file, framework, seen, is_joblib=True).run()
        except MalformedError as error:
            outcome.complaints += [*seen.complaints, _malformed(start, streams, str(error))]
            _read_plainly(data, start, framework, outcome)
            break
        outcome.complaints += seen.complaints
        if seen.wrappers:
            _read_plainly(data, start, framework, outcome)
        start, streams = seen.end, streams + 1
    if streams > 1:
        outcome.notes.append(f"the file holds {streams} pickles behind one another; all of them were read")
    for seen in outcome.seen:
        _nested(seen, framework, limits, outcome, limits.depth)
    outcome.complaints = list(dict.fromkeys(outcome.complaints))
    return outcome


def _malformed(start: int, streams: int, message: str) -> Complaint:
    if streams:
        what = f"bytes follow the last pickle that are no pickle: {message}"
        return Complaint("pickle.trailing", False, start, "-", what)
    return Complaint("pickle.malformed", False, start, "-", message)


def _at(offset: int, rule: str, what: str) -> Complaint:
    return Complaint(rule, False, offset, "-", what)


def _read_plainly(data: bytes, start: int, framework: str, outcome: Outcome) -> None:
    """As a loader that does not know joblib's arrays would: it must not find a program either.

    That it comes to no end is expected, and no complaint; what it named before is.
    """
    seen = Seen()
    file = io.BytesIO(data)
    file.seek(start)
    with contextlib.suppress(MalformedError):  # an array's bytes are no opcodes
        Machine(file, framework, seen, is_joblib=False).run()
    outcome.complaints += seen.complaints


def _nested(seen: Seen, framework: str, limits: Limits, outcome: Outcome, depth: int) -> None:
    """Pickles inside of bytes and texts: nothing listed loads them, so they have no business there."""
    for offset, value in seen.texts:
        try:
            inner = _inner_pickle(value, limits)
        except UnpackError as error:
            outcome.complaints.append(_at(offset, "pickle.nested", f"holds packed data: {error}"))
            continue
        if inner is not None:
            found = Seen()
            try:
                Machine(io.BytesIO(inner), framework, found, is_joblib=True).run()
            except MalformedError:
                found.complaints = [each for each in found.complaints if _is_meant(each)]
                if not found.complaints:
                    continue  # numbers that begin as a pickle does
            for each in found.complaints:
                what = f"holds a pickle at byte {offset}, which at its {each.place} {each.what}"
                outcome.complaints.append(
                    Complaint("pickle.nested", each.is_critical, offset, each.opcode, what[:400])
                )
            if depth > 1:
                _nested(found, framework, limits, outcome, depth - 1)
            elif found.texts:
                outcome.complaints.append(_at(offset, "pickle.nested", "pickles are nested too deeply"))


def _inner_pickle(value: str | bytes | bytearray, limits: Limits) -> bytes | None:
    """What may be a pickle inside a value, unpacked; UnpackError where it is packed to mislead."""
    if isinstance(value, str):
        try:
            raw = value.encode("latin-1")  # as protocols 0 to 2 write bytes
        except UnicodeEncodeError:
            return None
    else:
        raw = bytes(value)
    name = kinds.compression(raw)
    if name:
        try:
            raw = decompress(raw, name, limits)
        except UnpackError as error:
            if error.rule in ("archive.trailing", "archive.bomb"):
                raise
            return None  # numbers that begin as a packed stream does
    return raw if len(raw) >= 4 and _PLAUSIBLE.match(raw) else None


def _is_meant(complaint: Complaint) -> bool:
    """Whether a complaint about bytes that break off is more than chance: it names something, readably."""
    if complaint.rule != "pickle.global":
        return False
    named = complaint.what.removeprefix("names ").split(", which", 1)[0]
    return _NAME.fullmatch(named) is not None and len(named) > 5
