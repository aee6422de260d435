"""Which clusters are joined, which token is shown to them, and who can read it."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc  # type: ignore[import-untyped]
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from ray._raylet import Config  # type: ignore[attr-defined]

from configs.errors import UserError
from orchestrator import ray_access
from orchestrator.ray_access import (
    ask,
    is_loopback,
    keep_to_oneself,
    open_cluster,
    own_token,
    prepare_own_token,
    require_free_port,
    require_reachable,
    running_cluster,
)
from tests.orchestrator.sample_head import serving

FAR = {"10.0.0.1": True}
NEAR = {"127.0.0.1": True}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home folder without token, and no word of Ray's in the environment."""
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS", "RAY_USE_TLS"):
        monkeypatch.setenv(name, "")  # so that it is put back as it was
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    yield tmp_path
    os.environ.pop("RAY_AUTH_MODE", None)
    Config.initialize("")


def token_at(home: Path, token: str, *, rights: int = 0o600) -> Path:
    path = home / ".ray" / "auth_token"
    path.parent.mkdir()
    path.write_text(token)
    path.chmod(rights)
    return path


def rights_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def mode() -> str:
    from ray._private.authentication.authentication_utils import is_token_auth_enabled

    return "token" if is_token_auth_enabled() else "disabled"


def test_a_cluster_that_obeys_anybody_is_refused_with_the_command_that_protects_it() -> None:
    with serving(FAR) as (address, _), pytest.raises(UserError) as refusal:
        open_cluster(address)
    assert f"runtime.address is '{address}', but the cluster there (node 10.0.0.1) obeys whoever" in str(refusal.value)
    assert "`ray get-auth-token --generate && RAY_AUTH_MODE=token ray start --head`" in str(refusal.value)


def test_it_is_joined_where_the_operator_says_so() -> None:
    with serving(FAR) as (address, _):
        open_cluster(address, allow_unauthenticated=True)
    assert mode() == "disabled"


@pytest.mark.parametrize("nodes", [NEAR, {**NEAR, "10.0.0.1": False}])
def test_a_cluster_whose_nodes_are_all_on_loopback_needs_no_token(nodes: dict[str, bool]) -> None:
    """A node that died is nobody's way in."""
    with serving(nodes) as (address, _):
        open_cluster(address)
    assert mode() == "disabled"


def test_one_far_node_among_near_ones_is_enough_to_refuse() -> None:
    with serving({**NEAR, **FAR}) as (address, _), pytest.raises(UserError, match=r"node 10\.0\.0\.1"):
        open_cluster(address)


def test_a_token_is_shown_only_to_a_cluster_that_asks_for_one(home: Path) -> None:
    token_at(home, "secret")
    with serving(NEAR, token="secret") as (address, head):
        open_cluster(address)
    assert head.shown == [None, "Bearer secret"]
    assert mode() == "token"
    with serving(NEAR) as (address, head):
        open_cluster(address)
    assert head.shown == [None]


def test_a_missing_token_is_named_with_the_file_it_belongs_in(home: Path) -> None:
    with serving(FAR, token="secret") as (address, _), pytest.raises(UserError) as refusal:
        open_cluster(address)
    assert f"`ray get-auth-token` prints on its head node to {home}/.ray/auth_token, with rights 600" in str(
        refusal.value
    )
    assert mode() == "disabled"


def test_a_wrong_token_is_refused(home: Path) -> None:
    token_at(home, "stale")
    with serving(FAR, token="secret") as (address, _), pytest.raises(UserError, match="refuses the token that is here"):
        open_cluster(address)
    assert mode() == "disabled"


def test_leave_to_join_anything_does_not_replace_a_token_that_is_asked_for() -> None:
    with serving(FAR, token="secret") as (address, _), pytest.raises(UserError, match="asks for a token"):
        open_cluster(address, allow_unauthenticated=True)


def test_the_token_comes_from_where_ray_looks_for_it(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert own_token() is None
    token_at(home, "of the home folder")
    assert own_token() == "of the home folder"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("of another file")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(elsewhere))
    assert own_token() == "of another file"
    monkeypatch.setenv("RAY_AUTH_TOKEN", "of the environment")
    assert own_token() == "of the environment"


def test_a_named_token_file_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/nowhere/token")
    with pytest.raises(UserError, match="RAY_AUTH_TOKEN_PATH is '/nowhere/token', but that file can't be read"):
        own_token()


def test_our_own_token_is_ours_alone(home: Path) -> None:
    prepare_own_token()
    path = home / ".ray" / "auth_token"
    first = path.read_text()
    assert rights_of(path) == 0o600
    assert len(bytes.fromhex(first)) == 32
    prepare_own_token()
    assert path.read_text() == first


def test_a_token_that_others_could_read_is_closed(home: Path) -> None:
    """Ray's `get-auth-token --generate` writes it for everybody to read."""
    path = token_at(home, "secret", rights=0o644)
    prepare_own_token()
    assert (path.read_text(), rights_of(path)) == ("secret", 0o600)
    path.chmod(0o640)
    with serving(FAR, token="secret") as (address, _):
        open_cluster(address)
    assert rights_of(path) == 0o600


@pytest.mark.parametrize("name", ["RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"])
def test_no_token_is_made_where_the_environment_has_one(name: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "anything")
    prepare_own_token()
    assert not (home / ".ray").exists()


def test_rights_of_a_missing_file_are_nobody_s_business(tmp_path: Path) -> None:
    keep_to_oneself(tmp_path / "none")


def test_auto_is_the_cluster_that_the_environment_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert running_cluster() == "10.0.0.1:6379"


def test_auto_without_a_cluster_says_how_to_start_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_runs(_: str) -> str:
        raise ConnectionError("Could not find any running Ray instance.")

    monkeypatch.setattr(ray_access, "canonicalize_bootstrap_address_or_die", none_runs)
    with pytest.raises(UserError, match=r"runtime\.address is 'auto'.*RAY_AUTH_MODE=token ray start --head"):
        open_cluster("auto")


def certificate_at(folder: Path) -> tuple[Path, Path]:
    """A certificate of localhost that signs itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    today = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(issuer_name=name, subject_name=name, public_key=key.public_key())
        .serial_number(1)
        .not_valid_before(today - timedelta(days=1))
        .not_valid_after(today + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "tls.crt", folder / "tls.key"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return paths


def test_a_cluster_with_tls_is_asked_through_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the certificates that Ray's own variables name; TLS alone is no token, which the dashboard would need."""
    certificate, key = certificate_at(tmp_path)
    credentials = grpc.ssl_server_credentials(
        [(key.read_bytes(), certificate.read_bytes())], certificate.read_bytes(), require_client_auth=True
    )
    monkeypatch.setenv("RAY_USE_TLS", "1")
    monkeypatch.setenv("RAY_TLS_SERVER_CERT", str(certificate))
    monkeypatch.setenv("RAY_TLS_SERVER_KEY", str(key))
    monkeypatch.setenv("RAY_TLS_CA_CERT", str(certificate))
    with serving(FAR, credentials=credentials) as (address, _), pytest.raises(UserError, match="obeys whoever"):
        open_cluster(address.replace("127.0.0.1", "localhost"))


def test_a_listener_that_is_no_ray_is_named_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        connection = socket.create_connection(listener.getsockname())
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ray_access, "PATIENCE_SECONDS", 0.2)
            with pytest.raises(UserError, match="no head node of Ray"):
                ask(address)
        connection.close()


@pytest.mark.parametrize("address", ["nonsense", "ray://10.0.0.1:10001", "10.0.0.1:port", "10.0.0.1"])
def test_an_address_must_be_host_and_port(address: str) -> None:
    with pytest.raises(UserError, match="must be `auto` or host:port"):
        require_reachable(address)


def test_a_taken_dashboard_port_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(UserError, match=f"runtime.dashboard_port is {port}"):
            require_free_port(port)
    require_free_port(port)


@pytest.mark.parametrize(
    ("address", "near"),
    [("127.0.0.1", True), ("127.8.0.1", True), ("::1", True), ("localhost", True),
     ("10.0.0.1", False), ("0.0.0.0", False), ("node-3", False), ("", False)],
)  # fmt: skip
def test_loopback_is_what_only_this_machine_reaches(address: str, near: bool) -> None:
    assert is_loopback(address) is near
