"""gRPC as every service speaks it: a guarded server, errors as statuses and back, a channel with a token.

Admission: what holds for every RPC of every service. What one service's RPC means is in its own `rpc.py`.

    rpc.servicer(add_RegistryServiceServicer_to_server, instance, "phantom.registry.v1.RegistryService",
                 audit=rpc.DatabaseAuditSink(database))
"""

from phantom_platform.rpc.audit import AuditSink, DatabaseAuditSink
from phantom_platform.rpc.client import TokenSource, control_channel, from_rpc_error, translated
from phantom_platform.rpc.context import Caller, current_caller
from phantom_platform.rpc.server import GrpcServer, ServerLimits, message_options
from phantom_platform.rpc.servicer import Servicer, ServicerError, servicer

__all__ = [
    "AuditSink",
    "Caller",
    "DatabaseAuditSink",
    "GrpcServer",
    "ServerLimits",
    "Servicer",
    "ServicerError",
    "TokenSource",
    "control_channel",
    "current_caller",
    "from_rpc_error",
    "message_options",
    "servicer",
    "translated",
]
