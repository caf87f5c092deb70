"""gRPC over HTTP/2 on asyncio alone, for the paths where a request's cost is the product (docs/decisions/0008).

`server.Server` stands in for `grpc.aio.server`: it takes the same handlers. `client.open_stream` opens one
bidirectional call on a connection of its own. RFC 9113 (HTTP/2), RFC 7541 (HPACK, with the `hpack` library) and gRPC's
"PROTOCOL-HTTP2" are the sources.
"""
