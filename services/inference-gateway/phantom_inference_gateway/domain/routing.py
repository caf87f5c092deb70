"""Which revision a call gets: pin, permitted override, experiment (forced, gate, salt), rollout.

An endpoint's route and experiments are compiled once a change into tables of one byte a bucket, so that a decision
is a hash and two look-ups. Everything here is recomputable offline with `phantom_statistics.assignment`.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from xxhash import xxh3_64_intdigest

from phantom_platform.errors import NotFound
from phantom_statistics import assignment
from phantom_statistics.assignment import BUCKETS, CONTROL, Allocation


class Decision(enum.IntEnum):
    """How a revision was chosen; the numbers of phantom.predictions.v1.Decision."""

    ROLLOUT = 1
    EXPERIMENT = 2
    PIN = 3
    OVERRIDE = 4
    SHADOW = 5


# The arm of copies that a shadow revision answers.
SHADOW = "shadow"


@dataclass(frozen=True, slots=True)
class Choice:
    """A revision and why. `variant` goes to the client, `arm` (`<experiment>/<arm>`) into the log."""

    revision: str
    variant: str
    arm: str
    decision: Decision
    experiment_version: int = 0


@dataclass(frozen=True, slots=True)
class RevisionSpec:
    """A revision that the route holds."""

    id: str
    model_version: str
    is_pinnable: bool = True


@dataclass(frozen=True, slots=True)
class ExperimentSpec:
    """One running experiment of an endpoint. Buckets outside `allocations` are its control."""

    id: str
    version: int
    gate_salt: str
    gate_start: int
    gate_end: int
    salt: str
    hash_field: str
    forced: Mapping[str, str]
    allocations: Sequence[Allocation]
    arms: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ShadowSpec:
    """Calls of units whose bucket under `salt` is below `bp` are copied to a revision."""

    revision: str
    salt: str
    bp: int


@dataclass(frozen=True, slots=True)
class RouteSpec:
    """What a route record says about choosing revisions."""

    version: int
    hash_field: str
    salt: str
    allocations: Sequence[Allocation]
    arms: Mapping[str, str]
    revisions: Sequence[RevisionSpec]
    experiments: Sequence[ExperimentSpec] = ()
    shadow: ShadowSpec | None = None


def metadata_key(hash_field: str) -> str:
    """The metadata key that carries a hash field's value."""
    return "x-" + hash_field.lower().replace("_", "-")


class Buckets:
    """Bucket → choice for one salt. Raises `AssignmentError` where the allocations are not valid."""

    __slots__ = ("_choices", "_prefix", "_table")

    def __init__(
        self, salt: str, allocations: Sequence[Allocation], choice_of: Callable[[str], Choice]
    ) -> None:
        assignment.check(allocations)
        assignment.bucket(salt, "")  # refuses a salt with a colon
        arms = [CONTROL, *dict.fromkeys(each.arm for each in allocations)]
        table = bytearray(BUCKETS)
        for each in allocations:
            table[each.start : each.end] = bytes((arms.index(each.arm),)) * (each.end - each.start)
        self._prefix = salt.encode() + b":"
        self._table = bytes(table)
        self._choices = [choice_of(arm) for arm in arms]

    def choice(self, unit: bytes) -> Choice:
        """The choice of the arm that owns the unit's bucket."""
        return self._choices[self._table[xxh3_64_intdigest(self._prefix + unit) % BUCKETS]]


@dataclass(slots=True)
class _Experiment:
    spec: ExperimentSpec
    buckets: Buckets
    forced: dict[str, Choice] = field(default_factory=dict)
    gate_prefix: bytes = b""

    def admits(self, unit: bytes) -> bool:
        start, end = self.spec.gate_start, self.spec.gate_end
        if start <= 0 and end >= BUCKETS:
            return True
        return start <= xxh3_64_intdigest(self.gate_prefix + unit) % BUCKETS < end


class Shadow:
    """Which calls are copied, compiled. Raises `AssignmentError` for the salt, ValueError for the share."""

    __slots__ = ("_bp", "_prefix", "revision")

    def __init__(self, spec: ShadowSpec) -> None:
        assignment.bucket(spec.salt, "")
        if not 0 <= spec.bp <= BUCKETS:
            raise ValueError(f"the shadow's share is {spec.bp} basis points, not 0 to {BUCKETS}")
        self.revision = spec.revision
        self._prefix = spec.salt.encode() + b":"
        self._bp = spec.bp

    def takes(self, unit: str) -> bool:
        """Whether a call of this unit (of one without, its prediction id) is copied."""
        return xxh3_64_intdigest(self._prefix + unit.encode()) % BUCKETS < self._bp


class Unit:
    """Where the unit of a call comes from; asked for a hash field, at most once each.

    First that is not empty: request parameter, metadata `x-<field>`, then (unsticky) the OIP id, the prediction id.
    """

    __slots__ = ("_fallback", "_metadata", "_parameter")

    def __init__(
        self,
        parameter: Callable[[str], str | None] | None,
        metadata: Callable[[str], str | None],
        fallback: str,
    ) -> None:
        self._parameter = parameter
        self._metadata = metadata
        self._fallback = fallback

    def of(self, hash_field: str, key: str) -> tuple[str, bool]:
        """The text to hash, and whether it is sticky."""
        text = self._parameter(hash_field) if self._parameter is not None else None
        if not text:
            text = self._metadata(key)
        return (text, True) if text else (self._fallback, False)


class Plan:
    """A route compiled together with its endpoint's experiments. Immutable."""

    __slots__ = (
        "_experiments",
        "_key",
        "_rollout",
        "_versions",
        "control",
        "revisions",
        "shadow",
        "spec",
        "stable",
    )

    def __init__(self, spec: RouteSpec) -> None:
        self.spec = spec
        self.revisions = {each.id: each for each in spec.revisions}
        if CONTROL not in spec.arms:
            raise ValueError("the route names no revision for the arm 'control'")
        self.control = spec.arms[CONTROL]
        if self.control not in self.revisions:
            raise ValueError(f"the stable revision {self.control!r} is not among the route's revisions")
        # Of calls that are nobody else's.
        self.stable = Choice(self.control, CONTROL, CONTROL, Decision.ROLLOUT)
        self._key = metadata_key(spec.hash_field)
        self._rollout = Buckets(spec.salt, spec.allocations, self._rollout_choice)
        # None also where its revision is not in the route.
        self.shadow: Shadow | None = None
        if spec.shadow is not None and spec.shadow.revision in self.revisions:
            self.shadow = Shadow(spec.shadow)
        self._experiments = [self._compile(each) for each in spec.experiments]
        # The newest revision of a version answers for it, those of the arms before others.
        self._versions = {each.model_version: each.id for each in spec.revisions}
        for revision in reversed(tuple(spec.arms.values())):
            if revision in self.revisions:
                self._versions[self.revisions[revision].model_version] = revision

    def decide(self, unit: Unit) -> tuple[Choice, str, bool]:
        """Experiment or rollout: the choice, the unit's text and whether it is sticky."""
        if self._experiments:
            found = self._by_experiment(unit)
            if found is not None:
                return found
        text, is_sticky = unit.of(self.spec.hash_field, self._key)
        return self._rollout.choice(text.encode()), text, is_sticky

    def named(self, exact: Choice) -> Choice:
        """A pinned or overridden choice under the name of the rollout's arm that its revision serves."""
        arm = next((arm for arm, revision in self.spec.arms.items() if revision == exact.revision), CONTROL)
        return Choice(exact.revision, arm, arm, exact.decision)

    def unit(self, unit: Unit) -> tuple[str, bool]:
        """The rollout's unit of a call that is pinned or overridden."""
        return unit.of(self.spec.hash_field, self._key)

    def pinned(self, version: str) -> RevisionSpec:
        """The revision that a version (or revision id) pins; `NotFound` where the route has none."""
        found = self.revisions.get(version) or self.revisions.get(self._versions.get(version, ""))
        if found is None:
            known = ", ".join(sorted(self._versions))
            raise NotFound(
                f"version {shorten(version)!r} is not served here; these are: {known}",
                code="version_not_found",
                version=shorten(version),
            )
        return found

    def overridden(self, revision: str) -> RevisionSpec:
        """The revision of that id; `NotFound` where the route has none."""
        found = self.revisions.get(revision)
        if found is None:
            known = ", ".join(sorted(self.revisions))
            raise NotFound(
                f"revision {shorten(revision)!r} is not in the route; these are: {known}",
                code="revision_not_found",
                revision=shorten(revision),
            )
        return found

    def _by_experiment(self, unit: Unit) -> tuple[Choice, str, bool] | None:
        units = [
            unit.of(each.spec.hash_field, metadata_key(each.spec.hash_field)) for each in self._experiments
        ]
        for experiment, (text, is_sticky) in zip(self._experiments, units, strict=True):
            if is_sticky and text in experiment.forced:
                return experiment.forced[text], text, is_sticky
        for experiment, (text, is_sticky) in zip(self._experiments, units, strict=True):
            encoded = text.encode()
            if experiment.admits(encoded):
                return experiment.buckets.choice(encoded), text, is_sticky
        return None

    def _rollout_choice(self, arm: str) -> Choice:
        revision = self.spec.arms.get(arm, "")
        if revision not in self.revisions:
            return self.stable
        return Choice(revision, arm, arm, Decision.ROLLOUT)

    def _compile(self, spec: ExperimentSpec) -> _Experiment:
        def choose(arm: str, decision: Decision = Decision.EXPERIMENT) -> Choice:
            revision = spec.arms.get(arm, "")
            if revision not in self.revisions:
                return self._unexposed(spec)
            return Choice(revision, arm, f"{spec.id}/{arm}", decision, spec.version)

        assignment.bucket(spec.gate_salt, "")
        return _Experiment(
            spec,
            Buckets(spec.salt, spec.allocations, choose),
            {text: choose(arm, Decision.OVERRIDE) for text, arm in spec.forced.items()},
            spec.gate_salt.encode() + b":",
        )

    def _unexposed(self, spec: ExperimentSpec) -> Choice:
        """Control, and no exposure: the arm's revision is not in the route."""
        revision = spec.arms.get(CONTROL, "")
        revision = revision if revision in self.revisions else self.control
        return Choice(revision, CONTROL, CONTROL, Decision.ROLLOUT)


def shorten(text: str, limit: int = 80) -> str:
    """A client's text as it may stand in a message: printable ASCII, at most `limit` characters."""
    cut = text[: limit + 1]
    safe = "".join(c if " " <= c <= "~" else "?" for c in cut)
    return safe if len(safe) <= limit else f"{safe[: limit - 3]}..."
