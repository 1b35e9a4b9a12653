import pytest
from fixture_types import IdentityOf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from genrl_graph.errors import PeerRefused
from genrl_graph.runners.swarm.transport.signed import OVERHEAD, open_message, sign_message

FIXTURES = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)


@FIXTURES
@given(body=st.binary(max_size=2000))
def test_what_was_signed_comes_back_with_its_author(key: IdentityOf, body: bytes) -> None:
    message = sign_message(key("one"), body)

    assert open_message(message, max_bytes=2000) == (key("one").peer_id, body)
    assert len(message) <= len(body) + OVERHEAD


@FIXTURES
@given(data=st.data())
def test_a_message_with_any_bit_changed_is_not_the_authors(key: IdentityOf, data: st.DataObject) -> None:
    message = bytearray(sign_message(key("one"), b"round 3, node answers"))
    at = data.draw(st.integers(0, len(message) * 8 - 1))
    message[at // 8] ^= 1 << at % 8

    with pytest.raises(PeerRefused):
        open_message(bytes(message), max_bytes=100)


@given(data=st.binary(max_size=1500))
def test_garbage_is_refused_in_one_line(data: bytes) -> None:
    for message in (data, b"GGS1" + data):
        with pytest.raises(PeerRefused, match=r"^signed message: .*$"):
            open_message(message, max_bytes=1000)


def test_another_purpose_and_a_longer_body_are_refused(key: IdentityOf) -> None:
    beat = sign_message(key("one"), b"x" * 101, purpose="beat")

    with pytest.raises(PeerRefused, match="not signed by the key"):
        open_message(beat, max_bytes=200)
    with pytest.raises(PeerRefused, match="a body of 101 bytes, but at most 100"):
        open_message(beat, max_bytes=100, purpose="beat")
    with pytest.raises(PeerRefused, match=f"{100 + OVERHEAD + 1} bytes, but at most 100"):
        open_message(bytes(100 + OVERHEAD + 1), max_bytes=100)
