"""One entry for every kind of artifact."""

from pathlib import Path

from phantom_contracts.launch import Runtime
from phantom_contracts.schema import ModelSchema
from phantom_runtimes.formats import check_framework, sniff
from phantom_runtimes.model import Model


def load(
    path: Path,
    framework: str,
    schema: ModelSchema,
    *,
    threads: int = 1,
    allow_pickle: bool = False,
    runtime: Runtime = "native",
) -> Model:
    """Load the artifact and check it against its schema.

    `threads` is what one predict may use. Pickles execute code as they load: they are refused unless
    `allow_pickle`. With the runtime `auto`, XGBoost's trees are also handed to onnxruntime, which takes part of a
    second to prove that both answer alike; the model's `choice` says what came of it. Raises Invalid with code
    `unknown_format`, `wrong_format`, `unknown_framework`, `corrupt_model`, `schema_mismatch`, `unsupported_model` or
    `pickle_not_allowed`.
    """
    if threads < 1:
        raise ValueError(f"a predict uses at least one thread, not {threads}")
    found = sniff(path)
    kind = check_framework(found, framework)
    if kind == "xgboost":
        from phantom_runtimes import xgboost_runtime

        return xgboost_runtime.load(path, found, schema, threads=threads, is_native=runtime == "native")
    if kind == "onnx":
        from phantom_runtimes import onnx_runtime

        return onnx_runtime.load(path, schema, threads=threads)
    from phantom_runtimes import sklearn_runtime

    return sklearn_runtime.load(path, found, schema, threads=threads, allow_pickle=allow_pickle)
