"""A port of a group: its workers may listen on it, and nobody else, whether they listen yet or not."""

import socket

import pytest

from phantom_inference_gateway.shared_port import SharedPort
from phantom_platform.errors import Refused
from phantom_platform.http2.server import Server

HOST = "127.0.0.1"


def shared(port=0, host=HOST):
    return SharedPort("gRPC", host, port, setting="PHANTOM_GATEWAY_GRPC_PORT")


@pytest.fixture
async def group():
    port = shared()
    await port.start()
    yield port
    await port.stop()


def listen(port, *, reuse_port):
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if reuse_port:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        made.bind((HOST, port))
        made.listen()
    except OSError:
        made.close()
        raise
    return made


async def test_workers_listen_on_it_and_the_reservation_takes_no_connection(group):
    with listen(group.port, reuse_port=True) as one, listen(group.port, reuse_port=True) as two:
        clients = [socket.create_connection((HOST, group.port), timeout=5) for _ in range(64)]
        accepted = [accept_all(each) for each in (one, two)]
        assert sum(map(len, accepted)) == len(clients)
        assert all(accepted)
        for each in [*clients, *accepted[0], *accepted[1]]:
            each.close()


def accept_all(server):
    server.settimeout(0.5)
    found = []
    try:
        while True:
            found.append(server.accept()[0])
    except TimeoutError:
        return found


@pytest.mark.parametrize("is_listening", [False, True])
@pytest.mark.parametrize("host", [HOST, "localhost", "0.0.0.0"])
async def test_a_second_group_is_refused(group, is_listening, host):
    worker = listen(group.port, reuse_port=True) if is_listening else None
    with pytest.raises(Refused, match="set PHANTOM_GATEWAY_GRPC_PORT to another port") as refused:
        await shared(group.port, host).start()
    assert refused.value.code == "address_in_use"
    if worker is not None:
        worker.close()


async def test_a_gateway_alone_is_refused_on_a_group_s_port(group):
    with pytest.raises(RuntimeError, match="Address already in use"):
        Server().add_insecure_port(f"{HOST}:{group.port}")


@pytest.mark.parametrize("reuse_port", [False, True])
async def test_a_group_is_refused_where_somebody_listens(reuse_port):
    with listen(0, reuse_port=reuse_port) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Refused) as refused:
            await shared(port).start()
    assert refused.value.code == "address_in_use"
    again = shared(port)
    await again.start()  # nothing of the refused one was kept
    await again.stop()


async def test_connections_of_the_past_do_not_keep_a_group_out(group):
    with listen(group.port, reuse_port=True) as worker:
        client = socket.create_connection((HOST, group.port), timeout=5)
        server, _ = worker.accept()
    await group.stop()
    again = shared(group.port)
    await again.start()
    assert again.port == group.port
    await again.stop()
    server.close()
    client.close()
