from phantom_model_server import failures
from phantom_platform import errors
from phantom_platform.rpc.status import _CODES


def test_the_table_of_codes_is_the_platforms():
    assert {kind: code.value[0] for kind, code in _CODES.items()} == failures.CODES
    assert failures.code_of(errors.PhantomError("?")) == failures.INTERNAL
