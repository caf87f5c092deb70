"""OIP REST bodies to and from the gRPC messages that the gateway carries.

A request becomes the bytes of a ModelInferRequest whose inputs are all raw; an answer becomes JSON, with the
binary-data extension where the request asked for it: JSON first, `Inference-Header-Content-Length` bytes of it, then
the blobs in the order of their tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
from google.protobuf.message import DecodeError

from inference.grpc_service_pb2 import InferParameter, ModelInferRequest, ModelInferResponse
from phantom_inference_gateway import tensors
from phantom_platform.errors import Invalid, PhantomError, Unsupported, Violation
from phantom_statistics.assignment import AssignmentError, unit_text

MAX_INPUTS = 10_000
MAX_DIMENSIONS = 64
_TYPED = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
_TENSOR_FIELDS = {"name", "shape", "datatype", "parameters", "data"}
_BODY_FIELDS = {"id", "parameters", "inputs", "outputs", "model_name", "model_version"}
_OUTPUT_FIELDS = {"name", "parameters"}


@dataclass(slots=True)
class RestRequest:
    """A parsed body."""

    # Serialized inference.ModelInferRequest.
    body: bytes
    request_id: str
    parameters: dict[str, Any]
    # Which outputs are wanted as binary data: by name, else all or none.
    binary_outputs: dict[str, bool] = field(default_factory=dict)
    is_binary: bool = False

    def unit(self, name: str) -> str | None:
        """A parameter as the text of a unit; None where absent. `Invalid` where it is a fraction."""
        value = self.parameters.get(name)
        if value is None:
            return None
        try:
            return unit_text(value)
        except AssignmentError as error:
            raise Invalid(f"parameter {name!r}: {error}", code="invalid_unit", parameter=name) from error

    def wants_binary(self, output: str) -> bool:
        return self.binary_outputs.get(output, self.is_binary)


def parse_request(body: bytes, json_length: int | None, model: str, version: str) -> RestRequest:
    """Read the body of an infer call. `json_length` is the header Inference-Header-Content-Length.

    Raises `Invalid`, naming the field or tensor, what was expected and what came; `Unsupported` for shared memory
    and classification.
    """
    if json_length is not None and json_length > len(body):
        raise Invalid(
            f"header Inference-Header-Content-Length says {json_length}, the body has {len(body)} bytes",
            code="invalid_header",
        )
    document = parse_object(body if json_length is None else body[:json_length])
    _refuse_unknown(document, _BODY_FIELDS, "body")
    # KServe's client repeats the model's name in the body; another one than the address names is a mistake.
    _check_same(document, "model_name", model)
    _check_same(document, "model_version", version)
    blobs = _Blobs(body, json_length)
    request = ModelInferRequest(model_name=model, model_version=version, id=_text(document, "id", ""))
    parameters = _parameters(document, "")
    is_binary = _flag(parameters.pop("binary_data_output", False), "parameters.binary_data_output")
    _set_parameters(request.parameters, parameters)
    for number, item in enumerate(_items(document, "inputs", required=True)):
        _add_input(request, item, f"inputs[{number}]", blobs)
    blobs.check_all_used()
    wanted = {}
    for number, item in enumerate(_items(document, "outputs", required=False)):
        name, is_binary_output = _add_output(request, item, f"outputs[{number}]")
        wanted[name] = is_binary if is_binary_output is None else is_binary_output
    return RestRequest(request.SerializeToString(), request.id, parameters, wanted, is_binary)


def render_response(body: bytes, request: RestRequest) -> tuple[bytes, int | None]:
    """An answer's body and the length of its JSON where blobs follow (None: it is JSON alone).

    Raises `Unsupported` (`not_json`) where JSON cannot express an output, PhantomError (`bad_answer`) where a model
    server's answer makes no sense.
    """
    response = _parse_response(body)
    outputs, blobs = [], []
    for number, output in enumerate(response.outputs):
        raw = _raw_output(response, number)
        item: dict[str, Any] = {
            "name": output.name,
            "datatype": output.datatype,
            "shape": list(output.shape),
        }
        parameters = _plain(output.parameters)
        if request.wants_binary(output.name):
            parameters["binary_data_size"] = len(raw)
            blobs.append(raw)
        else:
            item["data"] = _json_data(output.name, output.datatype, output.shape, raw)
        if parameters:
            item["parameters"] = parameters
        outputs.append(item)
    document: dict[str, Any] = {"model_name": response.model_name, "model_version": response.model_version}
    if response.id:
        document["id"] = response.id
    if response.parameters:
        document["parameters"] = _plain(response.parameters)
    document["outputs"] = outputs
    text = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    return (b"".join([text, *blobs]), len(text)) if blobs else (text, None)


def parse_index_request(body: bytes) -> bool:
    """The body of a repository index call, often empty: whether only ready models are wanted."""
    return _flag(parse_object(body).get("ready", False), "ready") if body.strip() else False


def parse_object(body: bytes) -> dict[str, Any]:
    """A JSON object; `Invalid` (`invalid_json`) says where it is none."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Invalid(f"the body is not valid JSON: {error}", code="invalid_json") from error
    if type(document) is not dict:
        raise Invalid("the body must be a JSON object", code="invalid_json")
    return document


class _Blobs:
    """What follows the JSON, taken tensor by tensor."""

    def __init__(self, body: bytes, json_length: int | None) -> None:
        self._body = body
        self._at = json_length
        self._left = 0 if json_length is None else len(body) - json_length

    def take(self, where: str, size: object) -> bytes:
        if self._at is None:
            text = "binary_data_size needs the header Inference-Header-Content-Length"
            raise _invalid(where, text, code="invalid_header")
        if type(size) is not int or size < 0:
            raise _invalid(f"{where}.parameters.binary_data_size", f"must be a number >= 0, got {size!r:.40}")
        if size > self._left:
            raise _invalid(where, f"expected {size} bytes of binary data, {self._left} are left in the body")
        start = self._at
        self._at, self._left = start + size, self._left - size
        return self._body[start : start + size]

    def check_all_used(self) -> None:
        if self._left:
            raise _invalid("body", f"{self._left} bytes follow the JSON that belong to no input")


def _add_input(request: ModelInferRequest, item: dict[str, Any], where: str, blobs: _Blobs) -> None:
    _refuse_unknown(item, _TENSOR_FIELDS, where)
    name, datatype, shape = _text(item, "name", None, where), _datatype(item, where), _shape(item, where)
    parameters = _parameters(item, f"{where}.")
    size = parameters.pop("binary_data_size", None)
    _refuse_shared_memory(parameters, where)
    if (size is None) == ("data" not in item):
        raise _invalid(where, f"tensor {name[:200]!r} needs either data or parameters.binary_data_size")
    if size is None:
        raw = tensors.raw_from_json(name, datatype, shape, item["data"])
    else:
        raw = blobs.take(where, size)
        tensors.check_raw_size(name, datatype, shape, len(raw))
    added = request.inputs.add(name=name, datatype=datatype, shape=shape)
    _set_parameters(added.parameters, parameters)
    request.raw_input_contents.append(raw)


def _add_output(request: ModelInferRequest, item: dict[str, Any], where: str) -> tuple[str, bool | None]:
    _refuse_unknown(item, _OUTPUT_FIELDS, where)
    name = _text(item, "name", None, where)
    parameters = _parameters(item, f"{where}.")
    binary = parameters.pop("binary_data", None)
    _refuse_shared_memory(parameters, where)
    if "classification" in parameters:
        raise Unsupported(
            f"{where}: the classification extension is not offered", code="unsupported_extension"
        )
    _set_parameters(request.outputs.add(name=name).parameters, parameters)
    return name, None if binary is None else _flag(binary, f"{where}.parameters.binary_data")


def _items(document: dict[str, Any], key: str, *, required: bool) -> list[dict[str, Any]]:
    items = document.get(key)
    if items is None and not required:
        return []
    if type(items) is not list or (required and not items):
        raise _invalid(key, "must be an array of at least one tensor" if required else "must be an array")
    if len(items) > MAX_INPUTS:
        raise _invalid(key, f"has {len(items)} tensors; at most {MAX_INPUTS}")
    for number, item in enumerate(items):
        if type(item) is not dict:
            raise _invalid(f"{key}[{number}]", "must be an object")
    return items


def _text(item: dict[str, Any], key: str, default: str | None, where: str = "") -> str:
    value = item.get(key, default)
    if type(value) is str and (value or default is not None):
        return value
    if value is None and default is not None:
        return default
    path = f"{where}.{key}" if where else key
    raise _invalid(path, "must be a string" if default is not None else "must be a non-empty string")


def _datatype(item: dict[str, Any], where: str) -> str:
    datatype = item.get("datatype")
    if type(datatype) is str and datatype in tensors.DATATYPES:
        return datatype
    text = f"must be one of {', '.join(tensors.DATATYPES)}; got {datatype!r:.40}"
    raise _invalid(f"{where}.datatype", text, code="wrong_datatype")


def _shape(item: dict[str, Any], where: str) -> list[int]:
    shape = item.get("shape")
    if type(shape) is not list or len(shape) > MAX_DIMENSIONS:
        text = f"must be an array of at most {MAX_DIMENSIONS} numbers"
        raise _invalid(f"{where}.shape", text, code="wrong_shape")
    for each in shape:
        if type(each) is not int or not 0 <= each < 1 << 63:
            text = f"must hold numbers >= 0; got {each!r:.40}"
            raise _invalid(f"{where}.shape", text, code="wrong_shape")
    return shape


def _parameters(item: dict[str, Any], prefix: str) -> dict[str, Any]:
    parameters = item.get("parameters")
    if parameters is None:
        return {}
    if type(parameters) is not dict:
        raise _invalid(f"{prefix}parameters", "must be an object")
    for name, value in parameters.items():
        if type(value) not in (bool, int, float, str):
            raise _invalid(f"{prefix}parameters.{name[:100]}", "must be a string, a number, true or false")
    return dict(parameters)


def _flag(value: object, where: str) -> bool:
    if type(value) is not bool:
        raise _invalid(where, "must be true or false")
    return value


def _set_parameters(target: Any, parameters: Mapping[str, Any]) -> None:
    for name, value in parameters.items():
        if type(value) is bool:
            target[name].bool_param = value
        elif type(value) is str:
            target[name].string_param = value
        elif type(value) is float:
            target[name].double_param = value
        elif value < 1 << 63:
            target[name].int64_param = value
        else:
            target[name].uint64_param = value


def _check_same(document: dict[str, Any], key: str, expected: str) -> None:
    value = document.get(key)
    if value is not None and value != "" and value != expected:
        raise _invalid(key, f"the address says {expected[:200]!r}, the body {value!r:.200}")


def _refuse_shared_memory(parameters: Mapping[str, Any], where: str) -> None:
    if any(name.startswith("shared_memory_") for name in parameters):
        raise Unsupported(
            f"{where}: shared memory is not offered; send the tensor's data", code="unsupported_extension"
        )


def _refuse_unknown(item: dict[str, Any], known: set[str], where: str) -> None:
    for name in item:
        if name not in known:
            raise _invalid(f"{where}.{name[:100]}", f"is not known; known are {', '.join(sorted(known))}")


def _parse_response(body: bytes) -> ModelInferResponse:
    try:
        response = ModelInferResponse.FromString(body)
    except DecodeError as error:
        raise _bad_answer("it is no ModelInferResponse") from error
    raw = len(response.raw_output_contents)
    if raw and raw != len(response.outputs):
        raise _bad_answer(f"it has {len(response.outputs)} outputs and {raw} raw contents")
    return response


def _raw_output(response: ModelInferResponse, number: int) -> bytes:
    output = response.outputs[number]
    if response.raw_output_contents:
        raw = response.raw_output_contents[number]
    elif output.datatype in _TYPED:
        raw = tensors.raw_from_typed(output.datatype, getattr(output.contents, _TYPED[output.datatype]))
    else:
        raise _bad_answer(f"output {output.name!r} of datatype {output.datatype!r} has no raw content")
    try:
        tensors.check_raw_size(output.name, output.datatype, output.shape, len(raw))
    except Invalid as error:
        raise _bad_answer(error.message) from error
    return raw


def _json_data(name: str, datatype: str, shape: Any, raw: bytes) -> Any:
    try:
        return tensors.json_from_raw(name, datatype, shape, raw)
    except ValueError as error:
        raise _bad_answer(f"output {name!r}: {error}") from error


def _plain(parameters: Mapping[str, InferParameter]) -> dict[str, Any]:
    plain = {}
    for name, value in parameters.items():
        choice = value.WhichOneof("parameter_choice")
        if choice is not None:
            plain[name] = getattr(value, choice)
    return plain


def _bad_answer(reason: str) -> PhantomError:
    return PhantomError(f"the model server's answer makes no sense: {reason}", code="bad_answer")


def _invalid(where: str, text: str, *, code: str = "invalid_request") -> Invalid:
    return Invalid(code=code, violations=[Violation(where, text)])
