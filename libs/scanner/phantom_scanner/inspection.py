"""One file looked at from every side, in the process that calls. `sandbox.scan` is the way in from outside."""

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path

from phantom_contracts.schema import ModelSchema
from phantom_runtimes.errors import Invalid
from phantom_runtimes.formats import check_framework
from phantom_runtimes.ubj import loads as load_ubj
from phantom_runtimes.xgboost_check import parse_json
from phantom_scanner import archives, kinds, npy, opinion, secrets, structure, texts
from phantom_scanner.limits import Limits
from phantom_scanner.pickles import stream
from phantom_scanner.pickles.machine import Seen
from phantom_scanner.report import Finding, Report, ScanType, Severity, unassessed
from phantom_scanner.texts import Text
from phantom_scanner.unpacking import UnpackError, decompress

ADVICE = {
    "pickle": "save the model in a format that holds no program: ONNX, XGBoost's UBJ, or skops",
    "archive": "do not unpack the file; make it again from sources that you trust",
    "structure": "save the model again with a released version of its framework and register the new file",
}
SHORT = 512
"""Bytes up to this length are read as one text; those of longer ones are found by their printable runs."""
_MODELS = ("xgboost-json", "xgboost-ubj", "onnx", "skops", "pickle")


def inspect(path: Path, framework: str, schema: ModelSchema | None, limits: Limits) -> Report:
    """The report of the file. What it is stands in its content; the name is only repeated."""
    size = path.stat().st_size
    if size > limits.file_bytes:
        return unassessed(path.name, f"the file has {size} bytes; at most {limits.file_bytes} are looked at")
    data = path.read_bytes()
    report = Report(path.name, hashlib.sha256(data).hexdigest(), len(data), framework=framework)
    _Inspection(report, framework, schema, limits).file(data)
    if report.dropped:
        report.notes.append(f"{report.dropped} more findings are not listed")
    return report


class _Inspection:
    def __init__(self, report: Report, framework: str, schema: ModelSchema | None, limits: Limits) -> None:
        self.report, self.framework, self.schema, self.limits = report, framework, schema, limits

    def found(
        self, rule: str, scan: ScanType, severity: Severity, place: str, evidence: str, advice: str = ""
    ) -> None:
        remediation = advice or ADVICE.get(rule.split(".")[0], ADVICE["structure"])
        self.report.add(
            [Finding(rule, scan, severity, place[:200], evidence[:500], remediation)], self.limits.findings
        )

    def file(self, data: bytes) -> None:
        """The file as a whole: its format, its framework, its content."""
        found = kinds.kind(data)
        content, form = self._unpacked(data, found)
        self.report.format = form
        self._check_framework(form)
        self.content(content, form, "", self.limits.depth)
        if form not in _MODELS:
            what = f"the file is {form}, which is no model format that can be served"
            self.found("structure.unknown_format", "structure", "high", "start", what)

    def _unpacked(self, data: bytes, found: str) -> tuple[bytes, str]:
        """joblib packs whole pickles; everything else that comes packed is looked at and refused as no model."""
        if found not in kinds.COMPRESSED.values():
            return data, self._form(data, found)
        try:
            content = decompress(data, found, self.limits)
        except UnpackError as error:
            self.found(error.rule, "malware_scan", "high", f"{found} stream", f"{error}")
            return b"", found
        self.report.notes.append(f"the file is packed with {found}")
        inner = kinds.kind(content)
        if inner not in ("pickle", "tar"):
            what = f"a packed file holds {inner}; only pickles come packed"
            self.found("archive.content", "malware_scan", "high", f"{found} stream", what)
        return content, self._form(content, inner)

    def _form(self, data: bytes, found: str) -> str:
        is_skops = found == "zip" and b"schema.json" in data
        return "skops" if is_skops else found

    def _check_framework(self, form: str) -> None:
        if not self.framework or form not in _MODELS:
            return
        try:
            check_framework(form, self.framework)  # type: ignore[arg-type]
        except Invalid as error:
            self.found(f"structure.{error.code}", "structure", "high", "start", error.message)

    def content(self, data: bytes, form: str, prefix: str, depth: int) -> None:
        """What the bytes hold, each kind by its own reader; `prefix` says inside of what they lie."""
        if form == "pickle":
            self._pickle(data, prefix)
        elif form in ("zip", "skops", "tar"):
            self._archive(data, form, prefix, depth)
        elif form == "npy":
            self._npy(data, prefix)
        elif form == "program":
            self._program(data, prefix)
        elif form == "unknown" and data:
            self._unknown(data, prefix)
        elif form in kinds.COMPRESSED.values():
            self._packed_member(data, form, prefix, depth)
        if not prefix:  # what lies inside of an archive is no model that is served
            self._structure(data, form, prefix)
        self._secrets(self._texts(data, form), prefix)

    # -- what could run ------------------------------------------------------------------------------------------
    def _pickle(self, data: bytes, prefix: str) -> None:
        outcome = stream.read(data, self.framework, self.limits)
        for each in outcome.complaints:
            severity: Severity = "critical" if each.is_critical else "high"
            scan: ScanType = "structure" if each.rule == "pickle.malformed" else "malware_scan"
            self.found(each.rule, scan, severity, prefix + each.place, f"the pickle {each.what}")
            if each.rule == "pickle.malformed":
                self.found(
                    "pickle.unreadable",
                    "malware_scan",
                    "high",
                    prefix + each.place,
                    "what cannot be read is not trusted",
                )
        self.report.notes += outcome.notes
        for seen in outcome.seen:
            self._trees(seen, prefix)
            for offset, raw in seen.boosters:
                self._sound(structure.check_booster, raw, f"{prefix}booster at byte {offset}: ")
                self._secrets(self._texts(raw, kinds.kind(raw)), f"{prefix}booster at byte {offset}: ")
            self._secrets(
                ((f"byte {at}", texts.named(key, _text(value)), True) for at, key, value in seen.pairs),
                prefix,
            )
            lines = ((at, value) for at, value in seen.texts if isinstance(value, str) or len(value) <= SHORT)
            self._secrets(((f"byte {at}", _text(value), False) for at, value in lines), prefix)
        findings, notes = opinion.beside(data, not outcome.complaints)
        self.report.add(findings, self.limits.findings)
        self.report.notes += notes

    def _trees(self, seen: Seen, prefix: str) -> None:
        for offset, tree in seen.trees:
            try:
                structure.check_tree(tree)
            except Invalid as error:
                self.found(
                    f"structure.{error.code}",
                    "structure",
                    "high",
                    f"{prefix}tree at byte {offset}",
                    error.message,
                )

    def _archive(self, data: bytes, form: str, prefix: str, depth: int) -> None:
        reader = archives.read_tar if form == "tar" else archives.read_zip
        faults, members = reader(data, self.limits)
        for fault in faults:
            self.found(fault.rule, "malware_scan", "high", prefix + fault.place, fault.what)
        if depth <= 1:
            self.found(
                "archive.depth", "malware_scan", "high", prefix or "start", "archives are nested too deeply"
            )
            return
        for member in members:
            inner = kinds.kind(member.data) if member.data else "empty"
            is_text = inner == "unknown" and _is_text(member.data)
            self.content(member.data, "text" if is_text else inner, f"{prefix}{member.name}: ", depth - 1)

    def _packed_member(self, data: bytes, form: str, prefix: str, depth: int) -> None:
        try:
            content = decompress(data, form, self.limits)
        except UnpackError as error:
            self.found(error.rule, "malware_scan", "high", f"{prefix}{form} stream", str(error))
            return
        if depth > 1:
            self.content(content, kinds.kind(content), prefix, depth - 1)
        else:
            self.found("archive.depth", "malware_scan", "high", prefix, "it is packed too many times")

    def _npy(self, data: bytes, prefix: str) -> None:
        try:
            start = npy.pickle_offset(data)
        except ValueError as error:
            self.found("structure.npy", "structure", "high", f"{prefix}header", str(error))
            return
        if start is not None:
            self._pickle(data[start:], f"{prefix}objects at byte {start}: ")

    def _program(self, data: bytes, prefix: str) -> None:
        what = f"the file is {kinds.program(data)}, not a model"
        self.found(
            "program",
            "malware_scan",
            "critical",
            f"{prefix}start",
            what,
            "delete the file and find out who made it",
        )

    def _unknown(self, data: bytes, prefix: str) -> None:
        why = f"{prefix}its content ({data[:8]!r}…) is of no kind that is known"
        self.report.unassessed["malware_scan"] = why

    # -- what could crash, and what could leak --------------------------------------------------------------------
    def _structure(self, data: bytes, form: str, prefix: str) -> None:
        if form in ("xgboost-json", "xgboost-ubj"):
            self._sound(structure.check_xgboost, data, prefix)
        elif form == "onnx":
            self._sound(structure.check_onnx, data, prefix)
            self._external(data, prefix)
        elif form == "skops":
            self._sound(lambda raw, _: structure.check_skops(raw), data, prefix)

    def _sound(self, check: Callable[[bytes, ModelSchema | None], None], data: bytes, prefix: str) -> None:
        try:
            check(data, self.schema)
        except Invalid as error:
            place = ", ".join(
                f"{key} {error.fields[key]}" for key in ("tree", "node", "tree_node") if key in error.fields
            )
            self.found(
                f"structure.{error.code}", "structure", "high", prefix + (place or "model"), error.message
            )

    def _external(self, data: bytes, prefix: str) -> None:
        for where, path in structure.external_files(data):
            wrong = archives.name_fault(path)
            if wrong:
                what = f"{where} is to be read from {path!r:.100}, which {wrong}"
                self.found("onnx.external_data", "malware_scan", "critical", prefix + where, what)

    def _texts(self, data: bytes, form: str) -> Iterable[Text]:
        """A reader that knows the format where there is one, and every printable run besides."""
        try:
            if form == "xgboost-json":
                yield from texts.document(parse_json(data))
            elif form == "xgboost-ubj":
                yield from texts.document(load_ubj(data))
            elif form == "onnx":
                yield from texts.onnx(data)
        except Invalid:
            pass  # `structure` has said so; its printable runs are looked at all the same
        if form == "text":
            yield from (
                (f"line {n}", line, True)
                for n, line in enumerate(data.decode("utf-8", "replace").splitlines(), 1)
            )
        elif form not in ("zip", "skops", "tar"):  # members come one by one
            yield from texts.runs(data)

    def _secrets(self, found: Iterable[Text], prefix: str) -> None:
        prefixed = ((prefix + where, line, is_named) for where, line, is_named in found)
        self.report.add(secrets.find(prefixed), self.limits.findings)


def _text(value: str | bytes | bytearray) -> str:
    text = value if isinstance(value, str) else bytes(value[:65_536]).decode("latin-1")
    return text[:65_536]


def _is_text(data: bytes) -> bool:
    try:
        head = data[:65_536].decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start > 65_530 and b"\x00" not in data[:65_536]
    return "\x00" not in head
