"""A head node of Ray as far as `ray_access` asks it: nodes for whoever shows the token."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc  # type: ignore[import-untyped]
from ray.core.generated import gcs_pb2, gcs_service_pb2, gcs_service_pb2_grpc

NodeInfo = gcs_pb2.GcsNodeInfo  # type: ignore[attr-defined]
Reply = gcs_service_pb2.GetAllNodeInfoReply  # type: ignore[attr-defined]


class Head(gcs_service_pb2_grpc.NodeInfoGcsServiceServicer):
    """Answers `GetAllNodeInfo` as Ray does; the other questions are not implemented."""

    def __init__(self, nodes: dict[str, bool], token: str | None) -> None:
        self.nodes = nodes
        self.token = token
        self.shown: list[str | None] = []

    def GetAllNodeInfo(self, request: Any, context: Any) -> Any:
        shown = dict(context.invocation_metadata()).get("authorization")
        self.shown.append(shown)
        if self.token is not None and shown != f"Bearer {self.token}":
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "InvalidAuthToken: missing or incorrect")
        states = {True: NodeInfo.ALIVE, False: NodeInfo.DEAD}
        return Reply(
            node_info_list=[
                NodeInfo(node_manager_address=address, state=states[alive]) for address, alive in self.nodes.items()
            ]
        )


@contextmanager
def serving(nodes: dict[str, bool], token: str | None = None, credentials: Any = None) -> Iterator[tuple[str, Head]]:
    """A head on a free port of loopback: its address, and what it was asked.

    Args:
        nodes: address of each node, and whether it is alive.
        token: asked for, where given.
        credentials: of a server with TLS.
    """
    head = Head(nodes, token)
    server = grpc.server(ThreadPoolExecutor(1))
    gcs_service_pb2_grpc.add_NodeInfoGcsServiceServicer_to_server(head, server)  # type: ignore[no-untyped-call]
    if credentials is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    try:
        yield f"127.0.0.1:{port}", head
    finally:
        server.stop(None).wait()
