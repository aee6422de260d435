"""Ed25519 signatures: who handed a package over.

What is signed is `handoff.json`, byte by byte, which has the hash of every other file. The signature is the 64 raw
bytes, so that OpenSSL checks it as well:

    openssl pkeyutl -verify -pubin -inkey PUBLIC.pem -rawin -in handoff.json -sigfile handoff.sig
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from configs.errors import UserError
from orchestrator.handoff.manifest import SIGNATURE_FILE

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

MAKE_PRIVATE = "openssl genpkey -algorithm ed25519 -out KEY.pem"
MAKE_PUBLIC = "openssl pkey -in KEY.pem -pubout -out PUBLIC.pem"


def read_private_key(path: Path) -> Ed25519PrivateKey:
    """The key that signs.

    Raises:
        UserError: the file can't be read, is encrypted, or holds no private ed25519 key.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    content = _read(path, MAKE_PRIVATE)
    try:
        key = load_pem_private_key(content, password=None)
    except TypeError:
        raise UserError(
            f"{path} is encrypted; give a key that is not: openssl pkey -in KEY.pem -out PLAIN.pem"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise UserError(f"{path} is no private key in PEM; make one with: {MAKE_PRIVATE}") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise UserError(f"{path} is no ed25519 key, but of another kind; make one with: {MAKE_PRIVATE}")
    return key


def read_public_key(path: Path) -> Ed25519PublicKey:
    """The key that checks.

    Raises:
        UserError: the file can't be read, or holds no public ed25519 key.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    content = _read(path, MAKE_PUBLIC)
    try:
        key = load_pem_public_key(content)
    except (ValueError, UnsupportedAlgorithm):
        raise UserError(f"{path} is no public key in PEM; make it of the private one with: {MAKE_PUBLIC}") from None
    if not isinstance(key, Ed25519PublicKey):
        raise UserError(f"{path} is no ed25519 key, but of another kind; give that of whoever signed the package")
    return key


def check_signature(folder: Path, manifest: bytes, public_key: Path) -> None:
    """See that a package was signed by the owner of a key, as it is now.

    Args:
        folder: the package.
        manifest: the bytes of its `handoff.json`.
        public_key: PEM file.

    Raises:
        UserError: it is not signed, or by another key, or was changed since.
    """
    from cryptography.exceptions import InvalidSignature

    key = read_public_key(public_key)
    path = folder / SIGNATURE_FILE
    try:
        signature = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{folder} is not signed: it has no {SIGNATURE_FILE}; ask for a signed package") from None
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror}") from error
    try:
        key.verify(signature, manifest)
    except InvalidSignature:
        raise UserError(
            f"{path} is no signature of this handoff.json by {public_key}: another key signed it, or the package was "
            "changed; don't use it"
        ) from None


def _read(path: Path, make: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"key {path} can't be read: {error.strerror}; make one with: {make}") from error
