"""The identity of a peer: an RSA key in a file that survives restarts; the peer id hashes its public key."""

import fcntl
import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import base58
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from genrl_graph.errors import SwarmError

KEY_BITS = 2048
MAX_KEY_BITS = 4096
EXPONENT = 65537
MAX_PUBLIC_KEY = 600  # bytes of DER: a key of 4096 bits, with some margin
MAX_FILE = 1 << 14
SHA256_MULTIHASH = b"\x12\x20"
RSA_KEY = b"\x08\x00\x12"  # the protobuf of libp2p: field 1, the type of key, is RSA; field 2, its bytes, follows
PADDING = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=padding.PSS.DIGEST_LENGTH)


class Identity:
    """A private key in a libp2p key file, and the peer id that follows from it."""

    def __init__(self, path: Path, key: rsa.RSAPrivateKey) -> None:
        self.path = path
        self._key = key
        self.public_key = key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        self.peer_id = peer_id_of(self.public_key)

    @classmethod
    def load(cls, path: Path | str) -> "Identity":
        """Read the key file, or create it (mode 0600) if there is none.

        Raises:
            SwarmError: other users can access the file, it is no RSA key, or it cannot be read or written.
        """
        path = Path(path)
        try:
            _make(path)
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            with os.fdopen(descriptor, "rb") as file:
                status = os.fstat(descriptor)
                data = file.read(MAX_FILE + 1)
        except OSError as error:
            raise SwarmError(f"identity {path}: {error.strerror}; name a file that this user can write") from error
        if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            mode = stat.S_IMODE(status.st_mode)
            raise SwarmError(f"identity {path}: others can use it (mode {mode:04o}); `chmod 600 {path}`")
        return cls(path, _private_key(data, path))

    def sign(self, data: bytes) -> bytes:
        """Sign data with RSA-PSS over SHA-256; the signature of a 2048-bit key has 256 bytes."""
        return self._key.sign(data, PADDING, hashes.SHA256())

    @contextmanager
    def held(self) -> Iterator[None]:
        """Lock the key file while the block runs: two running peers with one id would break each other's streams.

        Raises:
            SwarmError: another process, or another host in this process, has locked it.
        """
        with self.path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise SwarmError(
                    f"identity {self.path}: another running peer uses it; stop that one or give this one its own file"
                ) from error
            yield


def peer_id_of(public_key: bytes) -> str:
    """Return the libp2p id of an RSA key in DER: base58 of the SHA-256 multihash of its protobuf."""
    encoded = RSA_KEY + _varint(len(public_key)) + public_key
    return str(base58.b58encode(SHA256_MULTIHASH + hashlib.sha256(encoded).digest()).decode())


def verify(peer_id: str, public_key: bytes, data: bytes, signature: bytes) -> bool:
    """Return whether the key belongs to the peer id and has signed the data; malformed input is False, no error."""
    if len(public_key) > MAX_PUBLIC_KEY or len(signature) > MAX_KEY_BITS // 8 or peer_id_of(public_key) != peer_id:
        return False
    try:
        key = serialization.load_der_public_key(public_key)
    except (ValueError, UnsupportedAlgorithm):
        return False
    if not isinstance(key, rsa.RSAPublicKey) or not KEY_BITS <= key.key_size <= MAX_KEY_BITS:
        return False
    if key.public_numbers().e != EXPONENT:
        return False
    try:
        key.verify(signature, data, PADDING, hashes.SHA256())
    except InvalidSignature:
        return False
    return True


def _make(path: Path) -> None:
    """Write a new key unless the file exists; if several processes race, the first key stays."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    key = rsa.generate_private_key(public_exponent=EXPONENT, key_size=KEY_BITS)
    der = key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    descriptor, own = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")  # of mode 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(RSA_KEY + _varint(len(der)) + der)
            file.flush()
            os.fsync(descriptor)
        os.link(own, path)  # a rename could replace another key, a plain write could leave half a file
    except FileExistsError:
        return
    finally:
        Path(own).unlink()


def _private_key(data: bytes, path: Path) -> rsa.RSAPrivateKey:
    """Parse the private key of a libp2p key file."""
    advice = "move it away and a new one is made"
    if data.startswith(b"-----BEGIN"):
        raise SwarmError(f"identity {path}: is a PEM or SSH key, not the protobuf of a libp2p RSA key; {advice}")
    if data[:1] == b"\x08" and data[:3] != RSA_KEY and data[2:3] == b"\x12":
        kind = {1: "Ed25519", 2: "Secp256k1", 3: "ECDSA"}.get(data[1], f"type {data[1]}")
        raise SwarmError(f"identity {path}: is a libp2p key of kind {kind}, but peers here have RSA keys; {advice}")
    try:
        key = serialization.load_der_private_key(_field(data), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise SwarmError(f"identity {path}: is no libp2p key file ({len(data)} bytes); {advice}") from error
    if not isinstance(key, rsa.RSAPrivateKey) or not KEY_BITS <= key.key_size <= MAX_KEY_BITS:
        raise SwarmError(f"identity {path}: wants an RSA key of {KEY_BITS} to {MAX_KEY_BITS} bits; {advice}")
    return key


def _field(data: bytes) -> bytes:
    """Return the key bytes of the protobuf: those after the header and their length, up to the end of the file."""
    if not data.startswith(RSA_KEY) or len(data) > MAX_FILE:
        raise ValueError("no RSA key of libp2p")
    at, size, shift = len(RSA_KEY), 0, 0
    while data[at : at + 1] and shift < 21:
        byte = data[at]
        at, size, shift = at + 1, size | (byte & 0x7F) << shift, shift + 7
        if byte < 0x80:
            break
    if len(data) - at != size:
        raise ValueError("cut short, or longer than it says")
    return data[at:]


def _varint(number: int) -> bytes:
    parts = []
    while number >= 0x80:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*parts, number])
