"""With which arguments a listed name may be called, and which state it may be given."""

from collections.abc import Callable
from typing import Any

from phantom_scanner.pickles.values import Made, MalformedError, Name, dtype_of

Args = tuple[Any, ...]
_NUMBERS = (int, float, bool, str, type(None))


def complaint(called: Name, args: Args) -> str | None:
    """What is wrong with calling the listed name with these arguments; None where it may be."""
    rule = _RULES.get(str(called))
    if rule is None:
        rule = _PREFIXED.get(called.module, _no_arguments)
    try:
        return None if rule(args) else f"{called} is called with arguments that no pickler writes"
    except MalformedError as error:
        return f"{called}: {error}"


def state_complaint(made: Made, state: Any) -> str | None:
    """What is wrong with giving this object this state; None where it may have it."""
    if made.is_built:
        return f"a {made.of} is given its state twice"
    if str(made.of) in _STATELESS or made.of.module == "builtins":
        return f"{made.of} is given a state"
    if made.of.name == "_reconstruct":
        return None if _array_state(state) else "an array's state is not numpy's"
    parts = state if isinstance(state, tuple) and len(state) == 2 else (state,)
    for part in parts:
        if isinstance(part, dict):
            if made.of.name == "FunctionTransformer" and (part.get("func"), part.get("inverse_func")) != (
                None,
                None,
            ):
                return f"a {made.of} is given a function to call"
            for key in part:
                if not isinstance(key, str):
                    return f"a {made.of} is given an attribute that is no name"
                if key.startswith("__") and key.endswith("__"):
                    return f"a {made.of} is given the attribute {key!r:.60}"
    return None


def takes_items(value: Any) -> bool:
    """Whether items may be set on it."""
    return isinstance(value, Made) and str(value.of) in _CONTAINERS


_CONTAINERS = frozenset(["collections.OrderedDict", "collections.defaultdict", "sklearn.utils._bunch.Bunch"])
_STATELESS = frozenset(
    f"{module}.{name}"
    for core in ("numpy._core", "numpy.core")
    for module, name in ((f"{core}.multiarray", "scalar"), (f"{core}.numeric", "_frombuffer"))
) | {"_codecs.encode"}


def _no_arguments(args: Args) -> bool:
    return args == ()


def _plain(args: Args) -> bool:
    return len(args) <= 8 and all(isinstance(each, _NUMBERS) for each in args)


def _named(value: Any, *names: str) -> bool:
    return isinstance(value, Name) and str(value) in names


def _made(value: Any, *names: str) -> bool:
    return isinstance(value, Made) and str(value.of) in names


def _ints(value: Any) -> bool:
    return isinstance(value, tuple) and all(isinstance(each, int) for each in value)


def _reconstructor(args: Args) -> bool:
    return (
        len(args) == 3
        and isinstance(args[0], Name)
        and _named(args[1], "builtins.object")
        and args[2] is None
    )


def _reconstruct(args: Args) -> bool:
    return (
        len(args) == 3
        and _named(args[0], "numpy.ndarray")
        and args[1] in ((0,), ())
        and isinstance(args[2], str | bytes | Made)
    )


def _scalar(args: Args) -> bool:
    if len(args) != 2 or not isinstance(args[1], bytes | Made):
        return False
    if isinstance(args[1], Made) and not _made(args[1], "_codecs.encode", "builtins.bytes"):
        return False
    return not dtype_of(args[0]).has_object


def _frombuffer(args: Args) -> bool:
    if len(args) not in (4, 5) or not isinstance(args[0], bytes | bytearray):
        return False
    return not dtype_of(args[1]).has_object and _ints(args[2]) and isinstance(args[3], str)


def _encode(args: Args) -> bool:
    return len(args) == 2 and isinstance(args[0], str) and args[1] in ("latin1", "latin-1")


def _dtype(args: Args) -> bool:
    return (
        1 <= len(args) <= 3
        and isinstance(args[0], str)
        and all(isinstance(each, bool | int) for each in args[1:])
    )


def _tree(args: Args) -> bool:
    return (
        len(args) == 3
        and isinstance(args[0], int)
        and 0 <= args[0] < 10_000_000
        and isinstance(args[2], int)
        and 0 < args[2] < 10_000
        and isinstance(args[1], Made)
    )


_BIT_GENERATORS = ("numpy.random._mt19937.MT19937", "numpy.random._pcg64.PCG64")


def _bit_generator(args: Args) -> bool:
    return len(args) == 1 and (args[0] in ("MT19937", "PCG64") or _named(args[0], *_BIT_GENERATORS))


def _random(args: Args) -> bool:
    constructor = "numpy.random._pickle.__bit_generator_ctor"
    if len(args) == 1:
        return args[0] in ("MT19937", "PCG64") or _made(args[0], constructor)
    return len(args) == 2 and args[0] in ("MT19937", "PCG64") and _named(args[1], constructor)


def _seeds(args: Args) -> bool:
    return (
        len(args) == 3
        and _named(args[0], "numpy.random.bit_generator.SeedSequence")
        and isinstance(args[1], int)
        and args[2] is None
    )


def _collection(args: Args) -> bool:
    return args == () or (len(args) == 1 and isinstance(args[0], list | tuple))


def _bytes(args: Args) -> bool:
    if args == ():
        return True
    if len(args) == 2:
        return isinstance(args[0], str) and args[1] in ("latin1", "latin-1")
    return len(args) == 1 and isinstance(args[0], bytes | list | Made)


def _default(args: Args) -> bool:
    return args == () or (
        len(args) == 1
        and _named(
            args[0], "builtins.list", "builtins.dict", "builtins.int", "builtins.float", "builtins.set"
        )
    )


def _own(module: str, *names: str) -> Callable[[Args], bool]:
    allowed = tuple(f"{module}.{name}" for name in names)
    return lambda args: len(args) == 1 and _named(args[0], *allowed)


_RULES: dict[str, Callable[[Args], bool]] = {
    "copyreg._reconstructor": _reconstructor,
    "_codecs.encode": _encode,
    "numpy._core.multiarray._reconstruct": _reconstruct,
    "numpy.core.multiarray._reconstruct": _reconstruct,
    "numpy._core.multiarray.scalar": _scalar,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy._core.numeric._frombuffer": _frombuffer,
    "numpy.core.numeric._frombuffer": _frombuffer,
    "numpy.dtype": _dtype,
    "numpy.random._pickle.__bit_generator_ctor": _bit_generator,
    "numpy.random._pickle.__generator_ctor": _random,
    "numpy.random._pickle.__randomstate_ctor": _random,
    "numpy.random.bit_generator.__pyx_unpickle_SeedSequence": _seeds,
    "builtins.set": _collection,
    "builtins.frozenset": _collection,
    "builtins.list": _collection,
    "builtins.tuple": _collection,
    "builtins.bytes": _bytes,
    "builtins.bytearray": _bytes,
    "builtins.complex": _plain,
    "builtins.range": _plain,
    "builtins.slice": _plain,
    "collections.OrderedDict": _collection,
    "collections.defaultdict": _default,
    "sklearn.tree._tree.Tree": _tree,
    "sklearn._loss.link.Interval": _plain,
    "sklearn.metrics._dist_metrics.newObj": _own(
        "sklearn.metrics._dist_metrics",
        *("EuclideanDistance64", "ManhattanDistance64", "MinkowskiDistance64", "ChebyshevDistance64"),
    ),
    "sklearn.neighbors._ball_tree.newObj": _own("sklearn.neighbors._ball_tree", "BallTree", "BallTree64"),
    "sklearn.neighbors._kd_tree.newObj": _own("sklearn.neighbors._kd_tree", "KDTree", "KDTree64"),
}
_PREFIXED: dict[str, Callable[[Args], bool]] = {  # their constructors keep numbers, nothing else
    "sklearn._loss._loss": _plain,
    "sklearn.linear_model._sgd_fast": _plain,
}


def _array_state(state: Any) -> bool:
    """(version, shape, dtype, is_fortran, bytes or a list of objects)"""
    if not isinstance(state, tuple) or len(state) != 5 or not _ints(state[1]):
        return False
    has_object = dtype_of(state[2]).has_object
    return isinstance(state[4], list) if has_object else isinstance(state[4], bytes | Made)
