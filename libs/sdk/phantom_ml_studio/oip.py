"""The Open Inference Protocol's messages, in a descriptor pool of our own.

A process can define protobuf package `inference` once; tritonclient and KServe's client define it too. With a
private pool the SDK can stand beside them.
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

SERVICE = "/inference.GRPCInferenceService"


@cache
def message(name: str) -> Any:
    """The message class of that name in package `inference`."""
    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(f"inference.{name}"))


@cache
def _pool() -> descriptor_pool.DescriptorPool:
    content = resources.files("phantom_ml_studio").joinpath("inference.binpb").read_bytes()
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(content).file:
        pool.Add(file)  # type: ignore[no-untyped-call, unused-ignore]
    return pool
