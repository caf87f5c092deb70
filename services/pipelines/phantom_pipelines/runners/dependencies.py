"""`dependency_check`: what a version was made with, against what would serve it and what is known to be bad. Pure.

What fails:
- no dependencies were recorded: there is nothing to check by;
- the framework's package is not there, in any of its distributions;
- Python's major version differs; for a pickled model its minor version, too;
- a known-bad version: of a recorded package, or of what serves the model (the framework, the server's own packages, and
  whatever they require);
- with `require_advisories`, no list of known-bad versions, or one that is too old.

What is only told: another major or minor version of the framework, of Python, or of a recorded package that is there,
and a recorded package that is not there: the model may need it, or only its training did.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from packaging.version import InvalidVersion, Version

FRAMEWORKS: dict[str, tuple[str, ...]] = {
    "xgboost": ("xgboost", "xgboost-cpu"),
    "onnx": ("onnxruntime", "onnxruntime-gpu"),
    "scikit-learn": ("scikit-learn",),
}
"""Framework → distributions of which one serves it."""

SAME = {"sklearn": "scikit-learn", "xgboost-cpu": "xgboost", "onnxruntime-gpu": "onnxruntime"}
"""Other names that people record."""

SERVER = ("numpy", "grpcio", "protobuf", "pydantic", "uvloop", "hpack", "aiohttp")


@dataclass(frozen=True)
class Advisory:
    """A known-bad range of versions of one package."""

    id: str
    package: str  # normalized
    summary: str
    # Half-open and closed ranges: (introduced, fixed, last affected); None where there is no such end.
    ranges: tuple[tuple[Version | None, Version | None, Version | None], ...]
    versions: frozenset[str] = frozenset()

    def holds(self, version: Version) -> bool:
        return str(version) in self.versions or any(
            (introduced is None or version >= introduced)
            and (fixed is None or version < fixed)
            and (last is None or version <= last)
            for introduced, fixed, last in self.ranges
        )


@dataclass(frozen=True)
class Advisories:
    """The list, or why there is none that can be used."""

    entries: tuple[Advisory, ...] = ()
    snapshot: str = ""
    unusable: str = ""


@dataclass(frozen=True)
class Runtime:
    """What serves models: Python's version, and distribution (normalized) → version and what it requires."""

    python: str
    versions: Mapping[str, str]
    requires: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Subject:
    """The version that is checked."""

    framework: str
    dependencies: Mapping[str, str]
    is_pickle: bool = False


@dataclass(frozen=True)
class Finding:
    """`fail` or `warning`."""

    severity: str
    package: str
    recorded: str
    provided: str
    words: str


@dataclass(frozen=True)
class Checked:
    """`advisories` says what the list of known-bad versions was worth."""

    findings: tuple[Finding, ...]
    advisories: str

    @property
    def failures(self) -> tuple[Finding, ...]:
        return tuple(each for each in self.findings if each.severity == "fail")


def check(subject: Subject, runtime: Runtime, advisories: Advisories, is_required: bool = False) -> Checked:
    """Everything that is to be said, failures first."""
    recorded = {normalized(name): version for name, version in subject.dependencies.items()}
    if not recorded:
        words = "no dependencies were recorded for this version; record its lineage with them"
        return Checked((Finding("fail", "", "", "", words),), _advisories_words(advisories))
    found = [
        *_python(recorded.pop("python", ""), runtime.python, subject.is_pickle),
        *_framework(subject.framework, recorded, runtime),
        *_skews(subject.framework, recorded, runtime),
        *_known_bad(recorded, served_by(subject.framework, runtime), advisories),
    ]
    if is_required and advisories.unusable:
        found.append(Finding("fail", "", "", "", advisories.unusable))
    found.sort(key=lambda each: each.severity != "fail")
    return Checked(tuple(found), _advisories_words(advisories))


def normalized(name: str) -> str:
    """As package indexes compare names; import names and builds that stand for the same thing by that."""
    plain = re.sub(r"[-_.]+", "-", name.strip()).lower()
    return SAME.get(plain, plain)


def served_by(framework: str, runtime: Runtime) -> dict[str, str]:
    """Package → version of all that has a part in serving the framework's models."""
    waiting = [*FRAMEWORKS.get(framework, ()), *SERVER]
    found: dict[str, str] = {}
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in runtime.versions and name not in found:
            found[name] = runtime.versions[name]
            waiting += runtime.requires.get(name, ())
    return found


def _advisories_words(advisories: Advisories) -> str:
    if advisories.unusable:
        return f"not assessed: {advisories.unusable}"
    return f"{len(advisories.entries):,} advisories as of {advisories.snapshot or 'an unknown day'}"


def _python(recorded: str, provided: str, is_pickle: bool) -> Iterable[Finding]:
    if not recorded:
        yield Finding("warning", "python", "", provided, "the version of Python was not recorded")
        return
    mine, theirs = _parts(recorded), _parts(provided)
    if mine is None or theirs is None:
        yield Finding("warning", "python", recorded, provided, f"{recorded!r:.60} is no version of Python")
    elif mine[0] != theirs[0] or (is_pickle and mine != theirs):
        words = f"made with Python {recorded}, served with {provided}"
        why = "a pickle needs the same minor version" if mine[0] == theirs[0] else "another language"
        yield Finding("fail", "python", recorded, provided, f"{words}: {why}")
    elif mine != theirs:
        yield Finding(
            "warning", "python", recorded, provided, f"made with Python {recorded}, served with {provided}"
        )


def _framework(framework: str, recorded: Mapping[str, str], runtime: Runtime) -> Iterable[Finding]:
    names = FRAMEWORKS.get(framework)
    if names is None:
        yield Finding("fail", framework, "", "", f"there is no runtime for {framework!r:.60}")
    elif not any(name in runtime.versions for name in names):
        yield Finding("fail", names[0], recorded.get(names[0], ""), "", f"{names[0]} is not installed here")
    elif names[0] not in recorded and framework != "onnx":
        provided = _provided(names[0], runtime)
        yield Finding("warning", names[0], "", provided, f"the version of {names[0]} was not recorded")


def _skews(framework: str, recorded: Mapping[str, str], runtime: Runtime) -> Iterable[Finding]:
    for name, version in sorted(recorded.items()):
        provided = _provided(name, runtime)
        if not provided:
            if name not in FRAMEWORKS.get(framework, ()):  # of which more has been said
                words = f"made with {name} {version}, which is not installed where it is served"
                yield Finding("warning", name, version, "", words)
            continue
        mine, theirs = _parts(version), _parts(provided)
        if mine is None:
            yield Finding("warning", name, version, provided, f"{version!r:.60} is no version of {name}")
        elif mine != theirs:
            kind = "major" if theirs is None or mine[0] != theirs[0] else "minor"
            words = f"made with {name} {version}, served with {provided}: another {kind} version"
            yield Finding("warning", name, version, provided, words)


def _known_bad(
    recorded: Mapping[str, str], serving: Mapping[str, str], advisories: Advisories
) -> Iterable[Finding]:
    for advisory in advisories.entries:
        for what, versions in (("made with", recorded), ("served with", serving)):
            for name, version in versions.items():
                known = _version(version)
                if known is None or normalized(name) != advisory.package or not advisory.holds(known):
                    continue
                words = f"{what} {name} {version}, which is known to be bad: {advisory.id} {advisory.summary}"
                mine, theirs = (version, "") if what == "made with" else ("", version)
                yield Finding("fail", name, mine, theirs, words[:500])


def _provided(name: str, runtime: Runtime) -> str:
    builds = next((names for names in FRAMEWORKS.values() if name in names), (name,))
    return next((runtime.versions[each] for each in builds if each in runtime.versions), "")


def _version(text: str) -> Version | None:
    try:
        return Version(text.strip().removeprefix("=="))
    except InvalidVersion:
        return None


def _parts(text: str) -> tuple[int, int] | None:
    """Major and minor."""
    found = _version(text)
    return None if found is None else (found.major, found.minor)
