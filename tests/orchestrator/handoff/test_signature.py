"""Signatures: by this program and by OpenSSL, of the right key and of all others."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from configs.errors import UserError
from orchestrator.handoff.manifest import MANIFEST_FILE, SIGNATURE_FILE
from orchestrator.handoff.signature import check_signature, read_private_key, read_public_key
from orchestrator.handoff.write import sign
from tests.orchestrator.handoff.sample_keys import keys

MANIFEST = b'{"schema_version": 1}\n'


@pytest.fixture
def signed(tmp_path: Path) -> Path:
    """Something signed with key 1."""
    folder = tmp_path / "package"
    folder.mkdir()
    (folder / MANIFEST_FILE).write_bytes(MANIFEST)
    sign(folder, read_private_key(keys(tmp_path)[0]))
    return folder


def test_the_right_key_passes(signed: Path, tmp_path: Path) -> None:
    check_signature(signed, MANIFEST, keys(tmp_path)[1])


def test_signing_again_gives_the_same_bytes(signed: Path, tmp_path: Path) -> None:
    first = (signed / SIGNATURE_FILE).read_bytes()
    sign(signed, read_private_key(keys(tmp_path)[0]))
    assert (signed / SIGNATURE_FILE).read_bytes() == first
    assert len(first) == 64


def test_a_wrong_key_fails(signed: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="another key signed it"):
        check_signature(signed, MANIFEST, keys(tmp_path, seed=2)[1])


@pytest.mark.parametrize("position", [0, len(MANIFEST) - 1])
def test_a_single_changed_byte_fails(signed: Path, tmp_path: Path, position: int) -> None:
    changed = bytearray(MANIFEST)
    changed[position] ^= 1
    with pytest.raises(UserError, match="the package was changed"):
        check_signature(signed, bytes(changed), keys(tmp_path)[1])


@pytest.mark.parametrize("length", [0, 63, 65])
def test_a_truncated_signature_fails(signed: Path, tmp_path: Path, length: int) -> None:
    path = signed / SIGNATURE_FILE
    path.write_bytes((path.read_bytes() + b"x")[:length])
    with pytest.raises(UserError, match=r"handoff\.sig is no signature"):
        check_signature(signed, MANIFEST, keys(tmp_path)[1])


def test_an_unsigned_package_fails(signed: Path, tmp_path: Path) -> None:
    (signed / SIGNATURE_FILE).unlink()
    with pytest.raises(UserError, match="is not signed"):
        check_signature(signed, MANIFEST, keys(tmp_path)[1])


def test_openssl_makes_keys_that_sign_and_checks_what_they_signed(signed: Path, tmp_path: Path) -> None:
    """The commands of the module's text and of its errors."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    private, public = tmp_path / "KEY.pem", tmp_path / "PUBLIC.pem"
    openssl("genpkey", "-algorithm", "ed25519", "-out", str(private))
    openssl("pkey", "-in", str(private), "-pubout", "-out", str(public))
    sign(signed, read_private_key(private))
    check_signature(signed, MANIFEST, public)
    files = ("-in", str(signed / MANIFEST_FILE), "-sigfile", str(signed / SIGNATURE_FILE))
    openssl("pkeyutl", "-verify", "-pubin", "-inkey", str(public), "-rawin", *files)


def openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


def test_files_that_are_no_private_key_are_refused(tmp_path: Path) -> None:
    private, public = keys(tmp_path)
    encrypted, rsa = tmp_path / "encrypted.pem", tmp_path / "rsa.pem"
    key = read_private_key(private)
    encrypted.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")))
    other = generate_private_key(public_exponent=65537, key_size=2048)
    rsa.write_bytes(other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    faults = {encrypted: "is encrypted", rsa: "no ed25519 key", public: "no private key", tmp_path / "none": "be read"}
    for path, fault in faults.items():
        with pytest.raises(UserError, match=f"{path.name} .*{fault}"):
            read_private_key(path)


def test_files_that_are_no_public_key_are_refused(tmp_path: Path) -> None:
    private, _ = keys(tmp_path)
    rsa = tmp_path / "rsa.pem"
    other = generate_private_key(public_exponent=65537, key_size=2048).public_key()
    rsa.write_bytes(other.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    faults = {private: "no public key", rsa: "no ed25519 key", tmp_path / "none": "be read"}
    for path, fault in faults.items():
        with pytest.raises(UserError, match=f"{path.name} .*{fault}"):
            read_public_key(path)
