import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from fixture_types import IdentityOf
from hivemind.p2p import P2P, PeerID
from hypothesis import given
from hypothesis import strategies as st

from genrl_graph.errors import SwarmError
from genrl_graph.runners.swarm.transport.identity import Identity, peer_id_of, verify


def test_a_key_is_made_for_its_owner_only_and_survives_restarts(tmp_path: Path) -> None:
    path = tmp_path / "peers" / "one" / "identity.key"
    before = os.umask(0)
    try:
        first = Identity.load(path)
    finally:
        os.umask(before)

    again = Identity.load(path)

    assert path.stat().st_mode & 0o777 == 0o600
    assert again.peer_id == first.peer_id == PeerID.from_identity(path.read_bytes()).to_base58()
    assert [file.name for file in path.parent.iterdir()] == ["identity.key"]


def test_a_key_that_hivemind_made_is_read(tmp_path: Path) -> None:
    path = tmp_path / "swarm.pem"
    P2P.generate_identity(str(path))

    assert Identity.load(path).peer_id == PeerID.from_identity(path.read_bytes()).to_base58()


def test_starts_at_the_same_time_share_one_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        ids = list(pool.map(lambda _: Identity.load(tmp_path / "key").peer_id, range(4)))

    assert len(set(ids)) == 1


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o777])
def test_a_key_that_others_can_use_is_refused_with_the_command_that_helps(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "key"
    Identity.load(path)
    path.chmod(mode)

    with pytest.raises(SwarmError, match=rf"mode {mode:04o}\); `chmod 600 {path}`"):
        Identity.load(path)


def _pem(key: Any) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _rsa(bits: int) -> bytes:
    der = rsa.generate_private_key(public_exponent=65537, key_size=bits).private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    return b"\x08\x00\x12" + bytes([len(der) & 0x7F | 0x80, len(der) >> 7]) + der


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", r"is no libp2p key file \(0 bytes\)"),
        (b"not a key at all\n", "is no libp2p key file"),
        (os.urandom(1196), "is no libp2p key file"),
        (b"\x08\x00\x12" + b"\xff" * 300, "is no libp2p key file"),
        (_pem(ed25519.Ed25519PrivateKey.generate()), "is a PEM or SSH key"),
        (b"\x08\x01\x12\x40" + bytes(64), "of kind Ed25519"),
        (_rsa(1024), "wants an RSA key of 2048 to 4096 bits"),
        (_rsa(2048)[:-1], "is no libp2p key file"),
        (_rsa(2048) + b"more", "is no libp2p key file"),
    ],
    ids=["empty", "text", "random", "prefix", "pem", "ed25519", "short", "truncated", "longer"],
)
def test_a_file_that_is_no_key_of_ours_is_refused_in_one_line(tmp_path: Path, data: bytes, what: str) -> None:
    path = tmp_path / "key"
    path.write_bytes(data)
    path.chmod(0o600)

    with pytest.raises(SwarmError, match=what) as caught:
        Identity.load(path)

    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert path.read_bytes() == data


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(SwarmError, match="name a file that this user can write"):
        Identity.load(tmp_path / "file" / "key")


def test_one_running_peer_holds_the_key(tmp_path: Path) -> None:
    identity = Identity.load(tmp_path / "key")
    with (
        identity.held(),
        pytest.raises(SwarmError, match="another running peer uses it"),
        Identity.load(tmp_path / "key").held(),
    ):
        pass
    with identity.held():
        pass


def test_only_the_key_that_the_id_names_signs_for_it(key: IdentityOf) -> None:
    one, other = key("one"), key("other")
    signature = one.sign(b"answer")

    assert verify(one.peer_id, one.public_key, b"answer", signature)
    assert not verify(one.peer_id, one.public_key, b"another", signature)
    assert not verify(one.peer_id, other.public_key, b"answer", other.sign(b"answer"))
    assert not verify(other.peer_id, one.public_key, b"answer", signature)


def test_keys_that_are_too_weak_or_slow_to_check_are_refused() -> None:
    for bits, exponent in ((1024, 65537), (2048, 3)):
        private = rsa.generate_private_key(public_exponent=exponent, key_size=bits)
        public = private.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        weak = Identity.__new__(Identity)
        weak._key = private
        assert not verify(peer_id_of(public), public, b"x", weak.sign(b"x"))


@given(public_key=st.binary(max_size=700), data=st.binary(), signature=st.binary(max_size=600))
def test_garbage_is_never_a_signature(public_key: bytes, data: bytes, signature: bytes) -> None:
    assert not verify(peer_id_of(public_key), public_key, data, signature)
