from phantom_deployer.domain.acknowledgement import FORGOTTEN_AFTER_S, Acknowledgements, Progress

KEY = "default/fraud-prod"


def known(*boots: str, version: int = 5) -> Acknowledgements:
    """Gateways at the version before, which is in Kafka, and a reader at the end."""
    acks = Acknowledgements()
    for boot in boots:
        acks.heartbeat(boot, {KEY: Progress(version - 1, version - 1)})
    acks.confirm(KEY, version, 10.0)
    acks.at_end(11.0)
    return acks


def read(acks: Acknowledgements, start: float, seconds: float) -> float:
    """Looks at the end each 0.5 s."""
    at = start
    while at < start + seconds:
        at += 0.5
        acks.at_end(at)
    return at


def test_nothing_is_acknowledged_before_the_record_is_in_kafka() -> None:
    acks = Acknowledgements()
    acks.at_end(1.0)
    assert "to be in Kafka" in acks.waiting(KEY, 1).reason  # type: ignore[union-attr]
    acks.confirm(KEY, 1, 2.0)
    assert acks.waiting(KEY, 2) is not None


def test_joins_before_the_record_are_read_first() -> None:
    acks = Acknowledgements()
    acks.at_end(5.0)
    acks.confirm(KEY, 1, 5.0)
    assert "reading" in acks.waiting(KEY, 1).reason  # type: ignore[union-attr]
    acks.at_end(5.1)
    assert acks.waiting(KEY, 1) is None


def test_every_gateway_must_have_drained() -> None:
    acks = known("g1", "g2")
    acks.heartbeat("g1", {KEY: Progress(5, 5)})
    acks.heartbeat("g2", {KEY: Progress(5, 4)})
    waiting = acks.waiting(KEY, 5)
    assert waiting is not None
    assert waiting.gateways == ("g2",)
    assert "gateway g2 to drain route 5" in waiting.reason
    assert acks.waiting(KEY, 5, "applied") is None
    acks.heartbeat("g2", {KEY: Progress(5, 5)})
    assert acks.waiting(KEY, 5) is None


def test_a_gateway_that_joined_and_told_nothing_yet_counts() -> None:
    acks = known()
    acks.join("g1")
    assert acks.waiting(KEY, 5) is not None


def test_a_gateway_that_left_does_not_count() -> None:
    acks = known("g1")
    acks.leave("g1")
    assert acks.waiting(KEY, 5) is None


def test_a_silent_gateway_stops_counting_after_ten_seconds_and_counts_again_when_it_speaks() -> None:
    acks = known("g1")
    at = read(acks, 11.0, 9.5)
    assert acks.waiting(KEY, 5) is not None
    read(acks, at, 1.0)
    assert acks.waiting(KEY, 5) is None
    acks.heartbeat("g1", {KEY: Progress(4, 4)})
    assert acks.waiting(KEY, 5) is not None


def test_time_in_which_kafka_was_away_proves_nothing() -> None:
    acks = known("g1")
    at = read(acks, 11.0, 9.0)
    acks.interrupted()
    at = read(acks, at + 60, 9.0)
    assert acks.waiting(KEY, 5) is not None
    read(acks, at, 1.5)
    assert acks.waiting(KEY, 5) is None


def test_time_in_which_the_deployer_did_not_read_proves_nothing() -> None:
    acks = known("g1")
    at = read(acks, 11.0, 9.0)
    at = read(acks, at + 30, 9.0)  # a frozen process: looks 30 s apart
    assert acks.waiting(KEY, 5) is not None


def test_a_known_boot_id_is_given_ten_seconds_after_a_restart() -> None:
    acks = Acknowledgements()
    acks.join("g1")  # from the table
    acks.confirm(KEY, 5, 1.0)
    at = read(acks, 1.0, 10.0)
    assert acks.waiting(KEY, 5) is not None
    read(acks, at, 1.0)
    assert acks.waiting(KEY, 5) is None


def test_the_newest_version_that_all_have_applied() -> None:
    acks = known("g1", "g2")
    acks.heartbeat("g1", {KEY: Progress(5, 4)})
    assert acks.acknowledged(KEY, 5) == 4
    acks.heartbeat("g2", {KEY: Progress(7, 4)})
    assert acks.acknowledged(KEY, 5) == 5


def test_without_gateways_a_version_in_kafka_is_acknowledged() -> None:
    acks = known()
    assert acks.acknowledged(KEY, 6) == 5


def test_a_gateway_silent_for_very_long_is_forgotten() -> None:
    acks = known("g1")
    read(acks, 11.0, FORGOTTEN_AFTER_S + 1)
    assert acks.forget() == ("g1",)
    assert acks.gateways == {}
