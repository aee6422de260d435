"""Who may command a Ray: what listens where, and whether a cluster asks for a token before it obeys.

A Ray runs whatever is sent to it. One of our own listens on loopback alone (`ray_runner.py` sees to that) and asks for
a token that only its user can read. A cluster must do the second, unless all its nodes are on loopback too.
"""

from __future__ import annotations

import ipaddress
import os
import secrets
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]
from ray._private.services import canonicalize_bootstrap_address_or_die
from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]
from ray.core.generated import gcs_pb2, gcs_service_pb2, gcs_service_pb2_grpc
from ray.exceptions import AuthenticationError

from configs.errors import UserError

PATIENCE_SECONDS = 5.0
"""How long a head node may take to answer."""
AUTH_MODE, TOKEN_VALUE, TOKEN_PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
PROTECT = "`ray get-auth-token --generate && RAY_AUTH_MODE=token ray start --head`"
"""What starts a head node that asks for a token."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a head node says to a question."""

    refused: bool
    """It wants a token, or another one."""
    nodes: tuple[str, ...] = ()
    """Addresses of the nodes that are alive, where it answers."""


def open_cluster(address: str, *, allow_unauthenticated: bool = False) -> None:
    """Make sure that a cluster may be joined, and have this process show the token where it is asked for one.

    Args:
        address: `auto` or host:port.
        allow_unauthenticated: join a cluster that obeys anybody, for networks that are closed by other means.

    Raises:
        UserError: no cluster answers there; it wants a token that isn't here; or it obeys whoever reaches it.
    """
    where = running_cluster() if address == "auto" else address
    require_reachable(where)
    answer = ask(where)
    if answer.refused:
        present_token(where)
    elif not allow_unauthenticated and (reachable := [node for node in answer.nodes if not is_loopback(node)]):
        raise UserError(
            f"runtime.address is {address!r}, but the cluster there (node {reachable[0]}) obeys whoever reaches it, "
            f"without a token. Start its head with {PROTECT}, copy ~/.ray/auth_token to the other nodes, and start "
            "them with RAY_AUTH_MODE=token too; on a network that is closed by other means, "
            "--set runtime.allow_unauthenticated=true"
        )


def running_cluster() -> str:
    """Host and port of the cluster that runs on this machine, or that RAY_ADDRESS names.

    Raises:
        UserError: there is none, or several.
    """
    try:
        return str(canonicalize_bootstrap_address_or_die("auto"))
    except (ConnectionError, ValueError) as error:
        raise UserError(
            f"runtime.address is 'auto', but no Ray cluster was found ({error}). "
            f"Start one with {PROTECT}, or leave --address out to run in this process"
        ) from error


def require_reachable(address: str, *, timeout_seconds: float = PATIENCE_SECONDS) -> None:
    """Refuse a cluster address at which nothing answers, before Ray tries for minutes.

    Raises:
        UserError: no host:port, or no connection.
    """
    host, separator, port = address.rpartition(":")
    if not separator or "/" in host or not port.isdigit():
        raise UserError(f"runtime.address is {address!r}, but must be `auto` or host:port, like 10.0.0.1:6379")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=timeout_seconds).close()
    except OSError as error:
        raise UserError(
            f"runtime.address is {address!r}, but nothing answers there ({error}). Check host and port "
            "(`ray status` on the head node prints them), or leave --address out to run in this process"
        ) from error


def require_free_port(port: int) -> None:
    """Refuse a dashboard port that is taken.

    Raises:
        UserError: another program listens there.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise UserError(
                f"runtime.dashboard_port is {port}, but another program listens there; "
                "choose another with --dashboard-port, or leave --dashboard out"
            ) from error


def ask(address: str, token: str | None = None) -> Answer:
    """Ask a head node for its nodes, with or without a token: the answer shows whether it obeys.

    Raises:
        UserError: what listens there is no head node of Ray.
    """
    metadata = [("authorization", f"Bearer {token}")] if token else []
    question = gcs_service_pb2.GetAllNodeInfoRequest()  # type: ignore[attr-defined]
    with _channel(address) as channel:
        head = gcs_service_pb2_grpc.NodeInfoGcsServiceStub(channel)  # type: ignore[no-untyped-call]
        try:
            reply = head.GetAllNodeInfo(question, timeout=PATIENCE_SECONDS, metadata=metadata)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.UNAUTHENTICATED:
                return Answer(refused=True)
            raise UserError(
                f"runtime.address is {address!r}, but what listens there is no head node of Ray "
                f"({error.code().name}: {error.details()}). Give the address that `ray start --head` printed"
            ) from error
    alive = gcs_pb2.GcsNodeInfo.ALIVE  # type: ignore[attr-defined]
    return Answer(
        refused=False, nodes=tuple(node.node_manager_address for node in reply.node_info_list if node.state == alive)
    )


def present_token(address: str) -> None:
    """Have Ray in this process show the user's token; an explicit address alone would not make it do so.

    Raises:
        UserError: there is no token here, or the cluster refuses it.
    """
    token = own_token()
    if token is None:
        raise UserError(
            f"runtime.address is {address!r}, but the cluster there asks for a token, and there is none here. Copy the "
            f"one that `ray get-auth-token` prints on its head node to {token_file()}, with rights 600"
        )
    if ask(address, token).refused:
        raise UserError(
            f"runtime.address is {address!r}, but the cluster there refuses the token that is here. "
            "Replace it with the one that `ray get-auth-token` prints on its head node"
        )
    keep_to_oneself(token_file())
    os.environ[AUTH_MODE] = "token"
    Config.initialize("")  # Ray has read the mode already


def own_token() -> str | None:
    """The token that Ray would show, from where Ray looks for it.

    Raises:
        UserError: the file that RAY_AUTH_TOKEN_PATH names can't be read.
    """
    loader = AuthenticationTokenLoader.instance()
    loader.reset_cache()
    try:
        return loader.get_raw_token(ignore_auth_mode=True) or None
    except AuthenticationError as error:
        raise UserError(
            f"{TOKEN_PATH} is {os.environ.get(TOKEN_PATH)!r}, but that file can't be read or is empty; "
            f"mend it, or unset {TOKEN_PATH} to use ~/.ray/auth_token"
        ) from error


def prepare_own_token() -> None:
    """Have a token ready for a Ray of our own, readable to its user alone (Ray would let everybody read it)."""
    if os.environ.get(TOKEN_VALUE) or os.environ.get(TOKEN_PATH):
        return
    path = token_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        keep_to_oneself(path)
    else:
        with open(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(32))


def keep_to_oneself(path: Path) -> None:
    """Take from others the right to read a file, if it is there and one's own."""
    if path.is_file() and path.stat().st_uid == os.getuid():
        path.chmod(path.stat().st_mode & 0o700)


def token_file() -> Path:
    """Where Ray keeps the user's token, unless the environment says otherwise."""
    return Path(os.environ.get(TOKEN_PATH) or Path.home() / ".ray" / "auth_token")


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach an address; a name is taken for one that others reach."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


def _channel(address: str) -> Any:
    """A connection as Ray makes it: with TLS where the environment says so."""
    if os.environ.get("RAY_USE_TLS", "0").lower() not in ("1", "true"):
        return grpc.insecure_channel(address)
    from ray._common.tls_utils import load_certs_from_env

    certificate, key, authority = load_certs_from_env()  # type: ignore[no-untyped-call]
    return grpc.secure_channel(
        address,
        grpc.ssl_channel_credentials(root_certificates=authority, private_key=key, certificate_chain=certificate),
    )
