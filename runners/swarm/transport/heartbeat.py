"""Heartbeats: small signed messages in which a peer tells the swarm its name, protocol, round and addresses."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from genrl_graph.errors import PeerRefused
from genrl_graph.runners.swarm.transport.identity import Identity
from genrl_graph.runners.swarm.transport.signed import open_message, sign_message

MAX_BODY = 1024
MAX_BEAT = 2048  # bytes with key and signature
MAX_TTL_S = 300.0
MAX_SKEW_S = 5.0
PURPOSE = "beat"
NAME = r"^[A-Za-z0-9_.-]+$"
PEER_NAME = r"^[A-Za-z0-9_.-]{1,64}(@[A-Za-z0-9]{8})?$"
ROLES = r"^([A-Za-z0-9_]+(,[A-Za-z0-9_]+)*)?$"
MAX_ROLES = 200  # characters
KEY_CHARACTERS = 8

Address = Annotated[str, Field(max_length=120)]


class Heartbeat(BaseModel):
    """One heartbeat; times are seconds of Unix time on the author's clock."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    swarm: str = Field(min_length=1, max_length=64, pattern=NAME)
    protocol: str = Field(min_length=1, max_length=64, pattern=NAME)
    name: str = Field(min_length=1, max_length=64 + 1 + KEY_CHARACTERS, pattern=PEER_NAME)
    session: str = Field(max_length=16, pattern=NAME)
    """Random id of this start: two starts of one identity differ."""
    round: int = Field(ge=0, lt=1 << 53)
    time: float = Field(ge=0)
    expires: float = Field(ge=0)
    left: bool = False
    """True in the last heartbeat of a peer that leaves."""
    roles: str = Field(default="", max_length=MAX_ROLES, pattern=ROLES)
    """The roles that the peer plays, separated by commas; empty: all."""
    addresses: Annotated[list[Address], Field(max_length=8)] = []

    def sealed(self, identity: Identity) -> bytes:
        """Return the signed bytes, with as many of the addresses as fit."""
        beat = self
        unsaid = None if self.roles else {"roles"}  # peers of versions without roles read it, too
        while len(body := beat.model_dump_json(exclude=unsaid).encode()) > MAX_BODY:
            beat = beat.model_copy(update={"addresses": beat.addresses[:-1]})
        return sign_message(identity, body, purpose=PURPOSE)


def qualified(name: str, peer_id: str) -> str:
    """Return a name that only the holder of a key can claim: the name, `@` and the last characters of its peer id."""
    return f"{name.partition('@')[0]}@{peer_id[-KEY_CHARACTERS:]}"


def open_beat(data: object, *, now: float) -> tuple[str, Heartbeat]:
    """Verify a heartbeat and return its author's peer id with it; raises `PeerRefused` with the broken rule.

    Expired heartbeats pass: the roster and the DHT drop them.
    """
    if not isinstance(data, bytes):
        raise PeerRefused(f"beat: is no bytes but {type(data).__name__}")
    if len(data) > MAX_BEAT:
        raise PeerRefused(f"beat: {len(data)} bytes, at most {MAX_BEAT} are allowed")
    peer_id, body = open_message(data, max_bytes=MAX_BODY, purpose=PURPOSE)
    try:
        beat = Heartbeat.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "body"
        raise PeerRefused(f"beat: {where[:80]}: {first['msg'][:200]}") from error
    if "@" in beat.name and beat.name != qualified(beat.name, peer_id):
        raise PeerRefused(f"beat: name: {beat.name!r} ends with another key than its author's, {peer_id}")
    if beat.time > now + MAX_SKEW_S:
        raise PeerRefused(f"beat: was made {beat.time - now:.0f} s from now; set the clock of one of the two machines")
    if beat.expires > beat.time + MAX_TTL_S:
        raise PeerRefused(f"beat: lasts {beat.expires - beat.time:.0f} s, at most {MAX_TTL_S:.0f} s are allowed")
    return peer_id, beat
