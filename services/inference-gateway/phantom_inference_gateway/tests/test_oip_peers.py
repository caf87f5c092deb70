"""A server of another make behind the gateway: plain OIP, tensors dropped, features logged where they can be."""

import asyncio
import random
import struct

import grpc
import numpy as np
import pytest

from inference import grpc_service_pb2 as oip
from inference import grpc_service_pb2_grpc as oip_grpc
from phantom.predictions.v1 import prediction_batch_pb2 as predictions
from phantom_contracts.events.deployer import Replica, RouteRevision
from phantom_contracts.schema import Feature, ModelSchema
from phantom_inference_gateway.access import Access
from phantom_inference_gateway.ids import IdMint
from phantom_inference_gateway.metrics import GatewayMetrics
from phantom_inference_gateway.oip_blocks import UnpackableError, keep_declared, pack
from phantom_inference_gateway.pool import Pool
from phantom_inference_gateway.routes import Routes
from phantom_inference_gateway.service import Gateway, Source
from phantom_inference_gateway.tests.fakes import MODEL_SCHEMA, Log, call, route, until
from phantom_inference_gateway.upstreams import StreamRule


class Peer(oip_grpc.GRPCInferenceServiceServicer):
    def __init__(self):
        self.requests = []
        self.code = None
        self.delay_s = 0.0

    async def ServerReady(self, request, context):
        return oip.ServerReadyResponse(ready=True)

    async def ModelInfer(self, request, context):
        self.requests.append(request)
        await asyncio.sleep(self.delay_s)
        if self.code is not None:
            await context.abort(self.code, "as told")
        response = oip.ModelInferResponse(model_name=request.model_name, id=request.id)
        response.outputs.add(name="probabilities", datatype="FP32", shape=[1, 2])
        response.raw_output_contents.append(struct.pack("<2f", 0.25, 0.75))
        return response


@pytest.fixture
async def served():
    peer, server = Peer(), grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    oip_grpc.add_GRPCInferenceServiceServicer_to_server(peer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    pool, log = Pool("boot", StreamRule(), random.random), Log()
    await pool.start()
    routes = Routes(pool)
    source = Source(IdMint(), random.randrange)
    gateway = Gateway(routes, Access(None, is_required=False), log, GatewayMetrics(), source)
    replica = Replica(id="t1", address=f"127.0.0.1:{port}", protocol="oip")
    revision = RouteRevision(
        id="f.1",
        model_id="triton-model",
        model_version="3.0.0",
        replicas=(replica,),
        model_schema=MODEL_SCHEMA,
    )
    record = route(("f.1", [])).model_copy(update={"revisions": (revision,)})
    routes.route_changed("default/flights-prod", record, 1)
    await routes.settled()
    yield peer, gateway, log, pool
    await pool.stop()
    await server.stop(None)


def asking(timeout_s=5.0):
    request = oip.ModelInferRequest(model_name="flights-prod", model_version="", id="q")
    for name, value in (("a", 1.5), ("extra", 9.0), ("b", 2.5)):
        request.inputs.add(name=name, datatype="FP64", shape=[1, 1])
        request.raw_input_contents.append(struct.pack("<d", value))
    made = call("q", timeout_s=timeout_s)
    made.body = request.SerializeToString()
    return made


async def test_a_call_is_translated_both_ways_and_logged(served):
    peer, gateway, log, pool = served
    answer = await gateway.infer(asking())
    assert answer.status == 0
    response = oip.ModelInferResponse.FromString(answer.body)
    assert (response.model_name, response.model_version, response.id) == ("flights-prod", "3.0.0", "q")
    asked = peer.requests[0]
    assert (asked.model_name, asked.model_version) == ("triton-model", "")
    assert [each.name for each in asked.inputs] == ["a", "b"]
    assert [struct.unpack("<d", each)[0] for each in asked.raw_input_contents] == [1.5, 2.5]
    (block, start, rows, offset) = log.entries[0].parts[0]
    assert (start, rows, offset) == (0, 1, 0)
    packed = predictions.Block.FromString(block)
    assert list(packed.number_columns) == ["a", "b"]
    assert np.frombuffer(packed.numbers, "<f8").tolist() == [1.5, 2.5]
    assert np.frombuffer(packed.scores, "<f4").tolist() == [0.75]
    assert np.frombuffer(packed.label_indexes, "<i4").tolist() == [1]
    assert pool.unlogged == 0


async def test_its_refusals_and_failures_come_through(served):
    peer, gateway, log, _ = served
    peer.code = grpc.StatusCode.INVALID_ARGUMENT
    answer = await gateway.infer(asking())
    assert (answer.status, answer.reason, answer.message) == (3, "peer_refused", "as told")
    peer.code = grpc.StatusCode.INTERNAL
    assert (await gateway.infer(asking())).status == 13
    broken = asking()
    broken.body = b"\x0a\x0cflights-prod\x2a\x05abc"
    assert (await gateway.infer(broken)).reason == "unparsable_request"
    assert [entry.parts for entry in log.entries] == [(), (), ()]


async def test_deadlines_and_cancellation_reach_it(served):
    peer, gateway, _, pool = served
    peer.delay_s = 5
    assert (await gateway.infer(asking(timeout_s=0.1))).reason == "deadline_exceeded"
    task = asyncio.create_task(gateway.infer(asking()))
    await until(lambda: len(peer.requests) == 2)
    task.cancel()
    await asyncio.wait([task])
    await gateway.idle()
    assert pool.counts() == (1, 1)


def classified(rows=1, names=("a", "b"), datatype="FP32"):
    request = oip.ModelInferRequest()
    for name in names:
        request.inputs.add(name=name, datatype=datatype, shape=[rows, 1]).contents.fp32_contents.extend(
            [1.0] * rows
        )
    response = oip.ModelInferResponse()
    response.outputs.add(name="probs", datatype="FP32", shape=[rows, 2])
    response.raw_output_contents.append(struct.pack(f"<{2 * rows}f", *[0.5] * 2 * rows))
    return request, response.SerializeToString()


def test_many_rows_become_blocks_of_512():
    request, response = classified(rows=1200)
    parts = pack(request, response, MODEL_SCHEMA)
    assert [(start, rows, offset) for _, start, rows, offset in parts] == [
        (0, 512, 0),
        (0, 512, 512),
        (0, 176, 1024),
    ]
    assert [predictions.Block.FromString(part[0]).rows for part in parts] == [512, 512, 176]


def test_a_regression_is_one_value_a_row():
    schema = ModelSchema(features=(Feature(name="a"),), task="regression")
    request, _ = classified(rows=3, names=("a",))
    response = oip.ModelInferResponse()
    response.outputs.add(name="y", datatype="FP32", shape=[3, 1]).contents.fp32_contents.extend([1, 2, 3])
    block = predictions.Block.FromString(pack(request, response.SerializeToString(), schema)[0][0])
    assert np.frombuffer(block.values, "<f8").tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("body", "schema", "why"),
    [
        (None, None, "no schema"),
        (b"\x0a\x05x", MODEL_SCHEMA, "not a valid"),
        (oip.ModelInferResponse().SerializeToString(), MODEL_SCHEMA, "no output"),
    ],
)
def test_what_cannot_be_packed_says_why(body, schema, why):
    request, response = classified()
    with pytest.raises(UnpackableError, match=why):
        pack(request, response if body is None else body, schema)


def test_undeclared_tensors_are_dropped_only_where_declared_ones_came():
    request, _ = classified(names=("a", "other"))
    keep_declared(request, MODEL_SCHEMA)
    assert [each.name for each in request.inputs] == ["a"]
    matrix, _ = classified(names=("features",))
    keep_declared(matrix, MODEL_SCHEMA)
    assert [each.name for each in matrix.inputs] == ["features"]
