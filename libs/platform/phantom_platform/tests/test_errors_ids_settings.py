import uuid
from datetime import UTC, datetime

import pytest

from phantom_platform import errors, ids
from phantom_platform.settings import DataSettings, GrpcSettings, KafkaSettings
from phantom_platform.testing.clock import FakeClock


def test_the_docstring_is_the_default_message_and_the_code_is_stable():
    error = errors.NotFound(model="fraud")
    assert error.message == "What was asked for does not exist."
    assert (error.code, error.fields) == ("not_found", {"model": "fraud"})
    assert errors.NotFound("no such model", code="model_not_found").code == "model_not_found"


def test_an_invalid_input_names_every_field_that_is_wrong():
    error = errors.Invalid(violations=[errors.Violation("a", "too long"), errors.Violation("b", "empty")])
    assert error.message == "a: too long; b: empty"
    assert [each.field for each in error.violations] == ["a", "b"]


def test_only_unavailable_says_when_to_come_back():
    assert errors.Unavailable(retry_after_s=3).retry_after_s == 3
    temporary = [each for each in errors.PhantomError.__subclasses__() if hasattr(each(), "retry_after_s")]
    assert temporary == [errors.Unavailable]


def test_a_uuid7_carries_its_time_and_its_version():
    one = ids.uuid7(1_700_000_000_123)
    assert one.version == 7
    assert one.variant == "specified in RFC 4122"
    assert one.int >> 80 == 1_700_000_000_123
    assert ids.uuid7(5) != ids.uuid7(5)
    assert str(ids.uuid7(1)) < str(ids.uuid7(2))


def test_later_ids_of_a_process_sort_after_earlier_ones_though_the_clock_goes_back(monkeypatch):
    made = [ids.new_id() for _ in range(2_000)]
    monkeypatch.setattr(ids.time, "time_ns", lambda: 1_700_000_000_000_000_000)
    made += [ids.new_id() for _ in range(100)]
    assert made == sorted(set(made))
    assert {uuid.UUID(each).version for each in made} == {7}
    assert {uuid.UUID(each).variant for each in made} == {uuid.RFC_4122}


@pytest.mark.parametrize("good", ["a", "fraud-detection", "9", "a" * 63])
def test_a_resource_id_is_a_dns_label(good):
    assert ids.check_resource_id(good, "model") == good


@pytest.mark.parametrize("bad", ["", "-a", "a-", "A", "a_b", "a" * 64, "a\n", "ä"])
def test_a_bad_resource_id_is_refused_by_field(bad):
    with pytest.raises(errors.Invalid) as caught:
        ids.check_resource_id(bad, "model")
    assert caught.value.violations[0].field == "model"
    assert caught.value.code == "invalid_id"


def test_names_and_principals_follow_their_own_rules():
    assert ids.check_name("A.b_c-1", "metric") == "A.b_c-1"
    assert ids.check_principal("ann@example.org", "user") == "ann@example.org"
    assert ids.check_principal("ann", "user") == "ann"
    for check, bad in (
        (ids.check_name, "a/b"),
        (ids.check_principal, "@x"),
        (ids.check_principal, "a b@x.y"),
    ):
        with pytest.raises(errors.Invalid):
            check(bad, "it")


def test_settings_come_from_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("PHANTOM_KAFKA_BOOTSTRAP", "kafka:1")
    monkeypatch.setenv("PHANTOM_CONTROL_PORT", "7")
    monkeypatch.setenv("PHANTOM_DATA_DIR", str(tmp_path))
    assert KafkaSettings().bootstrap == "kafka:1"
    assert GrpcSettings().port == 7
    assert DataSettings().data_dir == tmp_path


def test_a_fake_clock_moves_only_when_told():
    clock = FakeClock(datetime(2026, 5, 1, tzinfo=UTC))
    before = clock.now()
    clock.advance(1.5)
    assert (clock.now() - before).total_seconds() == 1.5
    assert clock.monotonic() == 1.5
    with pytest.raises(ValueError, match="does not go back"):
        clock.advance(-1)
