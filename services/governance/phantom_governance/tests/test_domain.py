"""The rules, as arithmetic."""

import pytest

from phantom_governance.domain.principals import (
    ENGINEER_PERMISSIONS,
    OWN_PERMISSIONS,
    check_password,
    user_permissions,
)
from phantom_governance.domain.throttle import MAX_NAMES, Throttle
from phantom_platform.errors import Invalid


def test_a_user_for_whom_nothing_is_said_is_an_engineer():
    assert set(user_permissions([])) == {*ENGINEER_PERMISSIONS, *OWN_PERMISSIONS}


def test_everybody_may_read_and_change_themselves():
    assert set(user_permissions(["models:read"])) == {"models:read", *OWN_PERMISSIONS}


@pytest.mark.parametrize(
    "text", ["", "models", "models:", ":read", "Models:read", "models:re ad", "**", "*:read", "a:b:c"]
)
def test_what_is_no_permission_is_refused_with_its_place(text):
    with pytest.raises(Invalid) as refused:
        user_permissions(["models:read", text])
    assert refused.value.code == "invalid_permission"
    assert refused.value.violations[0].field == "permissions[1]"


def test_more_permissions_than_a_token_can_carry_are_refused():
    with pytest.raises(Invalid) as refused:
        user_permissions([f"models:{'a' * 30}{chr(97 + n % 26)}{chr(97 + n // 26)}" for n in range(150)])
    assert refused.value.code == "too_many_permissions"


@pytest.mark.parametrize("password", ["", "short", "adalovelace", "ADALOVELACE", "aaaaaaaaaaaa"])
def test_a_password_that_would_be_guessed_first_is_refused(password):
    with pytest.raises(Invalid) as refused:
        check_password(password, "adalovelace", "password")
    assert refused.value.code == "weak_password"
    assert refused.value.violations[0].field == "password"


def test_a_password_of_eight_characters_is_enough():
    check_password("k3ks-Dos", "ada", "password")


def test_a_name_is_blocked_after_its_limit_and_free_a_minute_later():
    throttle = Throttle(3)
    for second in range(3):
        assert throttle.blocked_for_s("ada", second) == 0
        throttle.failed("ada", second)
    assert throttle.blocked_for_s("ada", 10.0) == 50.0
    assert throttle.blocked_for_s("bob", 10.0) == 0
    assert throttle.blocked_for_s("ada", 60.0) == 0


def test_the_window_slides():
    throttle = Throttle(2)
    for second in (0.0, 50.0):
        throttle.failed("ada", second)
    assert throttle.blocked_for_s("ada", 59.0) == 1.0
    assert throttle.blocked_for_s("ada", 61.0) == 0
    throttle.failed("ada", 61.0)
    assert throttle.blocked_for_s("ada", 62.0) == 48.0


def test_success_forgets_failures():
    throttle = Throttle(1)
    throttle.failed("ada", 0.0)
    throttle.succeeded("ada")
    assert throttle.blocked_for_s("ada", 1.0) == 0


def test_made_up_names_do_not_fill_the_memory():
    throttle = Throttle(1)
    for number in range(MAX_NAMES + 10):
        throttle.failed(f"name-{number}", 0.0)
    assert len(throttle._failures) == MAX_NAMES
