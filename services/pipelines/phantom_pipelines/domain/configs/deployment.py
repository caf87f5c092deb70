"""`deployment`: bring the version into an environment."""

from __future__ import annotations

from dataclasses import dataclass, field

from phantom_pipelines.domain.reading import Reader

STRATEGIES = ("blue_green", "canary", "rolling")
DAY_S = 86_400.0

DEFAULT_HEALTH_CHECK_TIMEOUT_S = 600.0
DEFAULT_CANARY_PERCENTAGE = 5.0
DEFAULT_CANARY_DURATION_S = 3600.0
# How long the old revision stays warm; a canary's is the deployer's to choose (the step, or the maturity of outcomes).
DEFAULT_ROLLBACK_WINDOW_S = {"blue_green": 60.0, "rolling": 0.0, "canary": -1.0}
# What the deployer measures in, and how many steps it takes at most.
SHORTEST_ANALYSIS_S = 10.0
MOST_STEPS = 1000


@dataclass(frozen=True)
class Canary:
    """Percent and seconds. `increment` None: one step at `initial`, then 100 %."""

    initial: float = DEFAULT_CANARY_PERCENTAGE
    increment: float | None = None
    interval_s: float = DEFAULT_CANARY_DURATION_S
    analysis_interval_s: float | None = None
    pause_at: tuple[float, ...] = ()


@dataclass(frozen=True)
class Criteria:
    """None: the rollout's own default."""

    error_rate_threshold: float | None = None
    latency_p95_threshold_ms: float | None = None
    minimum_requests: int | None = None
    compare_errors: bool | None = None
    compare_latency: bool | None = None
    compare_rejected: bool | None = None
    quality_margin: float | None = None
    max_distribution_distance: float | None = None
    level: float | None = None
    latency_tolerance: float | None = None


@dataclass(frozen=True)
class AutoRollback:
    """`failure_threshold` None: the rollout's own default."""

    is_enabled: bool = True
    failure_threshold: int | None = None
    rollback_percentage: float = 0.0


@dataclass(frozen=True)
class Replay:
    """The newest so many requests before any live traffic. None: reported, not judged."""

    requests: int
    max_disagreement: float | None = None
    max_distribution_distance: float | None = None
    max_latency_p95_ms: float | None = None
    quality_margin: float | None = None

    @classmethod
    def read(cls, section: Reader) -> Replay:
        """Its keys of a section that may have others, which is ended by who asks."""
        requests = section.whole("requests", least=1, most=100_000)
        if not section.has("requests"):
            section.wrong("requests", "is missing; say how many of the newest requests to replay")
        return cls(
            requests=requests or 1,
            max_disagreement=section.number("max_disagreement", least=0, most=1),
            max_distribution_distance=section.number("max_distribution_distance", least=0, most=1),
            max_latency_p95_ms=section.number("max_latency_p95", above=0),
            quality_margin=section.number("quality_margin", least=0, most=1),
        )

    @property
    def has_limits(self) -> bool:
        """Whether anything is judged."""
        limits = (
            self.max_disagreement,
            self.max_distribution_distance,
            self.max_latency_p95_ms,
            self.quality_margin,
        )
        return any(each is not None for each in limits)


@dataclass(frozen=True)
class DeploymentConfig:
    """How one version comes into one environment. An empty deployment id: the model's only one there."""

    environment: str = ""
    strategy: str = "blue_green"
    deployment_id: str = ""
    health_check_timeout_s: float = DEFAULT_HEALTH_CHECK_TIMEOUT_S
    rollback_on_failure: bool = True
    canary: Canary = field(default_factory=Canary)
    max_unavailable: int = 0
    max_surge: int = 0
    criteria: Criteria = field(default_factory=Criteria)
    auto_rollback: AutoRollback = field(default_factory=AutoRollback)
    replay: Replay | None = None
    rollback_window_s: float = 60.0
    on_conflict: str = "refuse"
    requires_new_features: bool = False
    # Of a first deployment; 0: one.
    replicas: int = 0

    @classmethod
    def read(cls, reader: Reader) -> DeploymentConfig:
        if not reader.has("environment"):
            reader.wrong("environment", "is missing; name the environment to deploy to")
        strategy = reader.choice("strategy", STRATEGIES, "blue_green")
        window = reader.number("rollback_window", least=0, most=DAY_S)
        rollback_on_failure = reader.flag("rollback_on_failure", True)
        return cls(
            environment=reader.text("environment", kind="resource_id"),
            strategy=strategy,
            deployment_id=reader.text("deployment_id", kind="resource_id"),
            health_check_timeout_s=reader.number("health_check_timeout", above=0, most=DAY_S)
            or DEFAULT_HEALTH_CHECK_TIMEOUT_S,
            rollback_on_failure=rollback_on_failure,
            canary=_canary(reader, strategy),
            **_rolling(reader, strategy),
            criteria=_criteria(reader),
            auto_rollback=_auto_rollback(reader, rollback_on_failure, strategy),
            replay=_replay(reader),
            rollback_window_s=DEFAULT_ROLLBACK_WINDOW_S[strategy] if window is None else window,
            on_conflict=reader.choice("on_conflict", ("refuse", "supersede"), "refuse"),
            requires_new_features=reader.flag("requires_new_features"),
            replicas=reader.whole("replicas", least=1, most=64) or 0,
        )


def _canary(reader: Reader, strategy: str) -> Canary:
    """One step of `canary_duration`, or steps by `increment_percentage`; in seconds, or minutes as a canary's are."""
    initial = reader.percent("canary_percentage")
    duration_s = reader.number("canary_duration", above=0, most=30 * DAY_S)
    increment = reader.percent("increment_percentage")
    minutes = reader.number("increment_interval_minutes", above=0, most=30 * 1440)
    analysis_s = reader.number("analysis_interval", least=SHORTEST_ANALYSIS_S)
    pause_at = reader.numbers("pause_at", above=0, below=100)
    _only(reader, strategy == "canary", "canary", *_CANARY_KEYS)
    if minutes is not None and increment is None:
        reader.wrong(
            "increment_interval_minutes", "goes with increment_percentage; without, give canary_duration"
        )
    if duration_s is not None and increment is not None:
        reader.wrong("canary_duration", "is the length of a single step; with increment_percentage, give "
                     "increment_interval_minutes")  # fmt: skip
    interval_s = minutes * 60 if minutes is not None else duration_s
    canary = Canary(
        initial=DEFAULT_CANARY_PERCENTAGE if initial is None else initial,
        increment=increment,
        interval_s=DEFAULT_CANARY_DURATION_S if interval_s is None else interval_s,
        analysis_interval_s=analysis_s,
        pause_at=pause_at,
    )
    _check_steps(reader, canary)
    return canary


def _check_steps(reader: Reader, canary: Canary) -> None:
    """What fits each other only."""
    longest_s = max(canary.interval_s, SHORTEST_ANALYSIS_S)
    if canary.analysis_interval_s is not None and canary.analysis_interval_s > longest_s:
        reader.wrong("analysis_interval", f"is longer than a step, which takes {canary.interval_s:g} s")
    increment = canary.increment or 100.0
    if (100.0 - canary.initial) / increment >= MOST_STEPS:
        reader.wrong("increment_percentage", f"makes more than {MOST_STEPS} steps")
    for share in canary.pause_at:
        steps = round((share - canary.initial) / increment, 6)
        if steps < 0 or steps != int(steps):
            reader.wrong("pause_at", f"{share:g} is the share of no step")


_CANARY_KEYS = (
    "canary_percentage",
    "canary_duration",
    "increment_percentage",
    "increment_interval_minutes",
    "analysis_interval",
    "pause_at",
)


def _rolling(reader: Reader, strategy: str) -> dict[str, int]:
    keys = ("max_unavailable", "max_surge")
    found = {name: reader.whole(name, least=0, most=64) or 0 for name in keys}
    _only(reader, strategy == "rolling", "rolling", *keys)
    return found


def _only(reader: Reader, fits: bool, strategy: str, *names: str) -> None:
    for name in names:
        if not fits and reader.has(name):
            reader.wrong(name, f"is for strategy {strategy} only")


def _criteria(reader: Reader) -> Criteria:
    section = reader.section("success_criteria")
    if section is None:
        return Criteria()
    found = Criteria(
        error_rate_threshold=section.number("error_rate_threshold", above=0, below=1),
        latency_p95_threshold_ms=section.number("latency_p95_threshold", above=0),
        minimum_requests=section.whole("minimum_requests", least=0, most=10**9),
        compare_errors=section.flag("compare_errors") if section.has("compare_errors") else None,
        compare_latency=section.flag("compare_latency") if section.has("compare_latency") else None,
        compare_rejected=section.flag("compare_rejected") if section.has("compare_rejected") else None,
        quality_margin=section.number("quality_margin", least=-1, most=1),
        max_distribution_distance=section.number("max_distribution_distance", above=0, below=1),
        level=section.number("level", above=0, below=0.5),
        latency_tolerance=section.number("latency_tolerance", least=0, most=10),
    )
    for name in ("compare_errors", "compare_latency", "compare_rejected"):
        section.flag(name)  # known names, given or not
    if found.quality_margin == 0:
        section.wrong(
            "quality_margin", "is 0, which no evidence can show; use more, or a negative one for off"
        )
    section.end()
    return found


def _auto_rollback(reader: Reader, is_default: bool, strategy: str) -> AutoRollback:
    """`rollback_on_failure` is its switch; saying the opposite here is refused."""
    section = reader.section("auto_rollback")
    if section is None:
        return AutoRollback(is_default)
    found = AutoRollback(
        is_enabled=section.flag("enabled", is_default),
        failure_threshold=section.whole("failure_threshold", least=1, most=1000),
        rollback_percentage=section.percent("rollback_percentage", least=0, below=100) or 0.0,
    )
    if found.rollback_percentage and strategy != "canary":
        section.wrong("rollback_percentage", f"a {strategy} rollout has no share to leave; leave it out")
    if found.is_enabled != is_default and reader.has("rollback_on_failure"):
        section.wrong("enabled", "says the opposite of rollback_on_failure; give one of the two")
    section.end()
    return found


def _replay(reader: Reader) -> Replay | None:
    section = reader.section("replay")
    if section is None:
        return None
    found = Replay.read(section)
    section.end()
    return found
