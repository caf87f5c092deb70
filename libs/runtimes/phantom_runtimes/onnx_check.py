"""Is this ONNX model self-contained, and made of operators we know?

onnxruntime itself refuses damaged trees and wrong shapes. What it would do without asking is follow a path to
external data, load custom operators, and run loops: all of that is refused here.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from phantom_contracts.schema import ModelSchema
from phantom_runtimes.errors import Invalid, corrupt
from phantom_runtimes.model import class_order

OPERATORS = {
    "": frozenset(
        [
            "Abs",
            "Acos",
            "Add",
            "And",
            "ArgMax",
            "ArgMin",
            "Atan",
            "AveragePool",
            "BatchNormalization",
            "Cast",
            "Ceil",
            "Clip",
            "Compress",
            "Concat",
            "Constant",
            "ConstantOfShape",
            "Conv",
            "Cos",
            "CumSum",
            "Div",
            "Dropout",
            "Elu",
            "Equal",
            "Erf",
            "Exp",
            "Expand",
            "Flatten",
            "Floor",
            "Gather",
            "GatherElements",
            "GatherND",
            "Gelu",
            "Gemm",
            "GlobalAveragePool",
            "GlobalMaxPool",
            "Greater",
            "GreaterOrEqual",
            "HardSigmoid",
            "HardSwish",
            "Identity",
            "InstanceNormalization",
            "IsInf",
            "IsNaN",
            "LayerNormalization",
            "LeakyRelu",
            "Less",
            "LessOrEqual",
            "Log",
            "LogSoftmax",
            "MatMul",
            "MatMulInteger",
            "Max",
            "MaxPool",
            "Mean",
            "Min",
            "Mish",
            "Mod",
            "Mul",
            "Neg",
            "Not",
            "OneHot",
            "Or",
            "Pad",
            "Pow",
            "PRelu",
            "QLinearConv",
            "QLinearMatMul",
            "QuantizeLinear",
            "DequantizeLinear",
            "DynamicQuantizeLinear",
            "Range",
            "Reciprocal",
            "ReduceL1",
            "ReduceL2",
            "ReduceLogSum",
            "ReduceLogSumExp",
            "ReduceMax",
            "ReduceMean",
            "ReduceMin",
            "ReduceProd",
            "ReduceSum",
            "ReduceSumSquare",
            "Relu",
            "Reshape",
            "Resize",
            "Round",
            "ScatterElements",
            "ScatterND",
            "Selu",
            "Shape",
            "Sigmoid",
            "Sign",
            "Sin",
            "Size",
            "Slice",
            "Softmax",
            "Softplus",
            "Softsign",
            "Split",
            "Sqrt",
            "Squeeze",
            "Sub",
            "Sum",
            "Tan",
            "Tanh",
            "Tile",
            "TopK",
            "Transpose",
            "Trilu",
            "Unsqueeze",
            "Where",
            "Xor",
        ]
    ),
    "ai.onnx.ml": frozenset(
        [
            "ArrayFeatureExtractor",
            "Binarizer",
            "CastMap",
            "CategoryMapper",
            "DictVectorizer",
            "FeatureVectorizer",
            "Imputer",
            "LabelEncoder",
            "LinearClassifier",
            "LinearRegressor",
            "Normalizer",
            "OneHotEncoder",
            "Scaler",
            "SVMClassifier",
            "SVMRegressor",
            "TreeEnsemble",
            "TreeEnsembleClassifier",
            "TreeEnsembleRegressor",
        ]
    ),
}
_DOMAINS = {"ai.onnx": "", "": "", "ai.onnx.ml": "ai.onnx.ml"}
_CLASSES = ("classlabels_strings", "classlabels_int64s", "classlabels_ints")


def check(raw: bytes, schema: ModelSchema) -> np.ndarray | None:
    """Raise Invalid unless the model may be loaded; returns the order of its classes (see `class_order`)."""
    model = _parse(raw)
    if model.functions:
        raise Invalid("unsupported_model", "the model defines functions of its own; export it without them")
    if model.training_info:
        raise Invalid("unsupported_model", "the model holds training information; export it for inference")
    for tensor in tensors(model.graph):
        if tensor.data_location == 1 or tensor.external_data:
            raise Invalid(
                "unsupported_model",
                f"the tensor {tensor.name!r:.80} lies in another file; save the model as one file",
            )
    for node in model.graph.node:
        _check_node(node)
    order = None
    for node in model.graph.node:
        classes, positional = _classes(node)
        if classes and schema.task == "classification":
            order = class_order(schema, classes, positional=positional)
    return order


def _parse(raw: bytes) -> Any:
    from google.protobuf.message import DecodeError
    from onnx.onnx_ml_pb2 import ModelProto

    model = ModelProto()
    try:
        model.ParseFromString(raw)
    except DecodeError as error:
        raise corrupt(f"the model is not ONNX: {error}") from error
    if not model.graph.node or not model.graph.input or not model.graph.output:
        raise corrupt("the model's graph has no nodes, inputs or outputs")
    return model


def _check_node(node: Any) -> None:
    domain = _DOMAINS.get(node.domain)
    if domain is not None and node.op_type == "ZipMap":
        raise Invalid(
            "unsupported_model",
            "the model ends in ZipMap, which answers dictionaries; export it with the option zipmap=False",
        )
    if domain is None or node.op_type not in OPERATORS[domain]:
        name = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
        raise Invalid(
            "unsupported_model", f"node {node.name!r:.80} uses the operator {name!r:.80}, which is not known"
        )
    if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
        raise Invalid("unsupported_model", f"node {node.name!r:.80} holds a graph of its own")


def tensors(graph: Any) -> Iterator[Any]:
    """Every tensor of a graph, also those inside the attributes of its nodes."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield sparse.values
        yield sparse.indices
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield sparse.values
                yield sparse.indices


def _classes(node: Any) -> tuple[list[str], bool]:
    """A classifier node's class labels as text, and whether they are numbers."""
    if node.op_type not in ("TreeEnsembleClassifier", "LinearClassifier", "SVMClassifier"):
        return [], False
    for attribute in node.attribute:
        if attribute.name in _CLASSES and attribute.strings:
            return [each.decode(errors="replace") for each in attribute.strings], False
        if attribute.name in _CLASSES and attribute.ints:
            return [str(each) for each in attribute.ints], True
    return [], False
