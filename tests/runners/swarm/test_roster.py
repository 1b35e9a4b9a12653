import json
import time
from typing import Any

import msgpack
import pytest
from fixture_types import IdentityOf
from hivemind.dht.routing import DHTID
from hivemind.dht.storage import DHTLocalStorage
from hivemind.dht.validation import DHTRecord
from hivemind.utils.serializer import MSGPackSerializer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from genrl_graph.runners.swarm.roster import Roster, RosterMember
from genrl_graph.runners.swarm.transport import dht
from genrl_graph.runners.swarm.transport.dht import FlatSerializer, HeartbeatValidator, key_of
from genrl_graph.runners.swarm.transport.heartbeat import MAX_BEAT, Heartbeat, qualified
from genrl_graph.runners.swarm.transport.identity import Identity
from genrl_graph.runners.swarm.transport.refusals import MAX_PENDING, Refusals
from genrl_graph.runners.swarm.transport.signed import sign_message


class Watch:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
def roster(key: IdentityOf, watch: Watch) -> Roster:
    own = RosterMember("me", key("me").peer_id, 0)
    return Roster(own, swarm="game", protocol="p1", session="s0", refusals=Refusals(), clock=watch)


def beat(watch: Watch, name: str = "ann", *, age: float = 0.0, ttl: float = 30.0, **changes: Any) -> Heartbeat:
    made = watch.now - age
    fields: dict[str, Any] = {"swarm": "game", "protocol": "p1", "session": "s1", "round": 0} | changes
    return Heartbeat(name=name, time=made, expires=made + ttl, **fields)


def reasons(roster: Roster) -> list[tuple[str | None, str]]:
    return [(refusal.peer_id, refusal.reason) for refusal in roster._refusals.take()]


def test_members_are_the_fresh_peers_of_the_same_graph_by_name_with_oneself(
    roster: Roster, key: IdentityOf, watch: Watch
) -> None:
    assert roster.members() == [RosterMember("me", key("me").peer_id, 0)]

    assert roster.take(beat(watch, "zoe").sealed(key("zoe")), subkey=key("zoe").peer_id)
    assert roster.take(beat(watch, "ann", ttl=10, round=4).sealed(key("ann")), subkey=key("ann").peer_id)
    roster.take(beat(watch, "bob", protocol="p2").sealed(key("bob")))
    roster.enter(5)

    assert [(member.name, member.round) for member in roster.members()] == [("ann", 4), ("me", 5), ("zoe", 0)]
    assert roster.strangers() == {"p2": ["bob"]}
    watch.now += 11
    assert [member.name for member in roster.members()] == ["me", "zoe"]
    assert reasons(roster) == []


def test_a_newer_beat_counts_and_an_older_one_does_not_bring_back_what_was(
    roster: Roster, key: IdentityOf, watch: Watch
) -> None:
    old = beat(watch, age=5).sealed(key("ann"))
    roster.take(old)
    roster.take(beat(watch, round=7).sealed(key("ann")))
    roster.take(old)
    assert roster.members()[0].round == 7

    watch.now += 1
    bye = beat(watch, left=True).sealed(key("ann"))
    assert not roster.take(bye)
    assert not roster.take(old)
    assert [member.name for member in roster.members()] == ["me"]


def test_members_say_which_roles_they_play_and_without_a_word_it_is_all(
    roster: Roster, key: IdentityOf, watch: Watch
) -> None:
    roster.take(beat(watch, "ann", roles="asker,judge").sealed(key("ann")))
    everything = beat(watch, "bob")
    assert b"roles" not in everything.sealed(key("bob")), "peers of versions without roles read it"
    roster.take(everything.sealed(key("bob")))
    ann, bob = roster.members()[:2]
    assert [ann.plays(role) for role in ("asker", "judge", "solver")] == [True, True, False]
    assert bob.plays("solver") and reasons(roster) == []
    for wrong in ("asker,", "a b", "x" * 201):
        with pytest.raises(ValueError, match="roles"):
            beat(watch, "zoe", roles=wrong)


def shown(roster: Roster) -> list[str]:
    return [member.name for member in roster.members()]


@pytest.mark.parametrize("first", ["ann", "thief"])
def test_a_name_that_two_keys_claim_is_shown_with_the_key_of_each(
    roster: Roster, key: IdentityOf, watch: Watch, first: str
) -> None:
    for name in dict.fromkeys([first, "ann", "thief"]):
        assert roster.take(beat(watch, "ann").sealed(key(name)), subkey=key(name).peer_id)
    names = sorted(qualified("ann", key(name).peer_id) for name in ("ann", "thief"))
    assert shown(roster) == [*names, "me"] and {member.claimed for member in roster.members()} == {"ann", "me"}
    watch.now += 60
    roster.take(beat(watch, "ann").sealed(key("ann")), subkey=key("ann").peer_id)
    assert shown(roster) == [qualified("ann", key("ann").peer_id), "me"], "names do not change back"


def test_a_peer_that_has_served_keeps_its_name_even_when_it_is_away(
    roster: Roster, key: IdentityOf, watch: Watch
) -> None:
    roster.take(beat(watch, "ann", ttl=10).sealed(key("ann")), subkey=key("ann").peer_id)
    roster.establish(key("ann").peer_id)
    watch.now += 20
    assert roster.take(beat(watch, "ann").sealed(key("thief")), subkey=key("thief").peer_id)
    assert shown(roster) == [qualified("ann", key("thief").peer_id), "me"]
    assert roster.take(beat(watch, "ann").sealed(key("ann")), subkey=key("ann").peer_id)
    assert shown(roster) == ["ann", qualified("ann", key("thief").peer_id), "me"]


def test_nobody_takes_the_name_of_this_peer_or_one_with_a_key(roster: Roster, key: IdentityOf, watch: Watch) -> None:
    roster.take(beat(watch, "me").sealed(key("thief")), subkey=key("thief").peer_id)
    assert shown(roster) == ["me", qualified("me", key("thief").peer_id)]
    assert roster.rivals == {key("thief").peer_id}
    mine = qualified("ann", key("ann").peer_id)
    assert not roster.take(beat(watch, mine, age=-1).sealed(key("thief")), subkey=key("thief").peer_id)
    assert "ends with another key than its author's" in reasons(roster)[-1][1]
    roster.qualify_own_name()
    assert roster.own.name == qualified("me", key("me").peer_id)
    assert shown(roster) == sorted(["me", roster.own.name])


def test_a_full_roster_takes_a_new_peer_and_keeps_those_that_serve(
    roster: Roster, key: IdentityOf, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("genrl_graph.runners.swarm.roster.MAX_MEMBERS", 2)
    for name in ("ann", "bob", "zoe", "kim"):
        assert roster.take(beat(watch, name).sealed(key(name)), subkey=key(name).peer_id)
        if name == "ann":
            roster.establish(key("ann").peer_id)
    assert shown(roster) == ["ann", "kim", "me"]
    roster.establish(key("kim").peer_id)
    assert not roster.take(beat(watch, "bob").sealed(key("bob")), subkey=key("bob").peer_id)
    assert "2 peers that serve rows are known" in reasons(roster)[-1][1]


def test_a_peer_speaks_only_for_itself(roster: Roster, key: IdentityOf, watch: Watch) -> None:
    good = beat(watch)
    forged = good.sealed(key("ann"))[:-1] + b" "
    for data, subkey, reason in [
        (good.sealed(key("ann")), key("bob").peer_id, "stands under another peer's id"),
        (forged, key("ann").peer_id, "not signed by the key in it"),
        (good.sealed(key("ann")), 17, "stands under another peer's id"),
        (beat(watch, swarm="other").sealed(key("ann")), key("ann").peer_id, "of swarm 'other', not 'game'"),
        (sign_message(key("ann"), good.model_dump_json().encode()), key("ann").peer_id, "not signed by the key in it"),
        (beat(watch, age=-60).sealed(key("ann")), key("ann").peer_id, "was made 60 s from now"),
        (beat(watch, ttl=9e6).sealed(key("ann")), key("ann").peer_id, "lasts 9000000 s"),
        (bytes(MAX_BEAT + 1), key("ann").peer_id, f"{MAX_BEAT + 1} bytes, at most {MAX_BEAT}"),
        ("text", key("ann").peer_id, "is no bytes but str"),
        (None, None, "is no bytes but NoneType"),
    ]:
        assert not roster.take(data, subkey=subkey)
        (refused,) = reasons(roster)
        assert reason in refused[1]
    assert [member.name for member in roster.members()] == ["me"]


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 900,
        b'{"swarm":"game"}',
        b"\xff\xfe",
        b'{"swarm":"game","protocol":"p1","session":"s1","name":"../../etc","round":0,"time":1.0,"expires":2.0}',
        b'{"swarm":"game","protocol":"p1","session":"s1","name":"ann","round":-1,"time":1.0,"expires":2.0}',
        b'{"swarm":"game","protocol":"p1","session":"s1","name":"ann","round":true,"time":1.0,"expires":2.0}',
        b'{"swarm":"game","protocol":"p1","session":"s1","name":"ann","round":0,"time":NaN,"expires":2.0}',
        b'{"swarm":"game","protocol":"p1","session":"s1","name":"ann","round":0,"time":1.0,"expires":1e999}',
        b'{"swarm":"game","protocol":"p1","session":"s1","name":"ann","round":0,"time":1.0,"expires":2.0,"more":1}',
    ],
)
def test_a_signed_body_of_the_wrong_shape_is_refused(roster: Roster, key: IdentityOf, body: bytes) -> None:
    assert not roster.take(sign_message(key("ann"), body, purpose="beat"), subkey=key("ann").peer_id)
    ((peer_id, reason),) = reasons(roster)
    assert peer_id == key("ann").peer_id and reason.startswith("beat: ")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100, deadline=None)
@given(
    data=st.one_of(st.binary(max_size=300), st.text(), st.none(), st.integers(), st.lists(st.integers())),
    subkey=st.one_of(st.none(), st.text(), st.binary(), st.integers()),
)
def test_no_record_makes_the_roster_raise(roster: Roster, data: Any, subkey: Any) -> None:
    assert roster.take(data, subkey=subkey) is False
    assert len(roster.members()) == 1


def test_a_second_running_copy_of_the_own_identity_is_noticed_and_an_earlier_run_is_not(
    roster: Roster, key: IdentityOf, watch: Watch
) -> None:
    roster.take(beat(watch, "me", age=5).sealed(key("me")), subkey=key("me").peer_id)
    assert reasons(roster) == []

    watch.now += 1
    roster.take(beat(watch, "me").sealed(key("me")), subkey=key("me").peer_id)
    assert "has this peer's identity" in reasons(roster)[0][1]


def test_addresses_are_left_out_where_they_do_not_fit(roster: Roster, key: IdentityOf, watch: Watch) -> None:
    long = beat(watch, addresses=["/dns4/" + "a" * 100 + f"/tcp/{port}" for port in range(1000, 1008)])
    sealed = long.sealed(key("ann"))

    assert len(sealed) <= MAX_BEAT and roster.take(sealed)
    assert 3 <= len(roster.addresses(key("ann").peer_id)) < 8
    assert roster.addresses("unknown") == []


def test_refusals_are_counted_and_bounded() -> None:
    refusals = Refusals()
    for _ in range(3):
        refusals.add("peer", "beat", "too\nlong " + "x" * 1000)
    for at in range(2 * MAX_PENDING):
        refusals.add("peer", "beat", f"reason {at}")

    taken = refusals.take()
    assert taken[0].count == 3 and len(taken[0].reason) == 300 and "\n" not in taken[0].reason
    assert len(taken) == MAX_PENDING and refusals.total == 3 + 2 * MAX_PENDING
    assert refusals.take() == []


def record(identity: Identity, sealed: Any, expires: float, *, swarm: str = "game", subkey: Any = None) -> DHTRecord:
    dumps = MSGPackSerializer.dumps
    tag = dumps(identity.peer_id) if subkey is None else subkey
    return DHTRecord(DHTID.generate(key_of(swarm)).to_bytes(), tag, dumps(sealed), expires)


def test_the_dht_keeps_only_beats_in_their_place(key: IdentityOf, watch: Watch) -> None:
    ann = beat(watch)
    sealed = ann.sealed(key("ann"))
    keeps = HeartbeatValidator().validate

    assert keeps(record(key("ann"), sealed, ann.expires))
    assert not keeps(record(key("bob"), sealed, ann.expires)), "another peer's place"
    assert not keeps(record(key("ann"), sealed, ann.expires + 60)), "longer than its author said"
    assert not keeps(record(key("ann"), sealed, ann.expires, swarm="other")), "another swarm's key"
    assert not keeps(record(key("ann"), sealed, ann.expires, subkey=MSGPackSerializer.dumps(None))), "no dictionary"
    assert not keeps(record(key("ann"), bytes(3000), ann.expires))
    assert not keeps(record(key("ann"), json.dumps({"a": 1}), ann.expires))


def keep(validator: HeartbeatValidator, identity: Identity, watch: Watch, swarm: str = "game") -> bool:
    """Offer a heartbeat of a key to the DHT node of a peer; returns whether it is kept."""
    made = beat(watch, swarm=swarm)
    return validator.validate(record(identity, made.sealed(identity), made.expires, swarm=swarm))


def test_invented_swarms_take_no_place_of_the_own_one(
    key: IdentityOf, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dht, "MAX_OTHERS", 6)
    validator = HeartbeatValidator("game")
    kept = [keep(validator, key("eve"), watch, swarm=f"swarm{at}") for at in range(20)]
    assert kept == [True] * dht.MAX_PER_AUTHOR + [False] * (20 - dht.MAX_PER_AUTHOR)
    for name in ("bob", "zoe", "kim"):
        assert keep(validator, key(name), watch, swarm="other"), "a random one of them makes room"
    assert keep(validator, key("ann"), watch) and len(validator._own) == 1 and len(validator._others) == 6


def test_a_flood_of_keys_keeps_no_new_peer_out_and_none_that_serves(
    key: IdentityOf, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dht, "MAX_OWN", 2)
    ann = key("ann").peer_id
    validator = HeartbeatValidator("game", is_kept=lambda peer_id: peer_id == ann)
    validator.storage = DHTLocalStorage()
    place = DHTID.generate(key_of("game"))
    for name in ("ann", "bob", "zoe", "kim"):
        assert keep(validator, key(name), watch)
        validator.storage.store_subkey(place, key(name).peer_id, b"beat", watch.now + 30)
    assert set(validator.storage.get(place).value.data) == {ann, key("kim").peer_id}
    always = HeartbeatValidator("game", is_kept=lambda peer_id: True)
    assert [keep(always, key(name), watch) for name in ("ann", "bob", "zoe")] == [True, True, False]


def test_nested_extensions_that_overflow_hivemind_are_refused() -> None:
    bomb = bytes(1000)
    for _ in range(5000):
        bomb = msgpack.packb(msgpack.ExtType(0x40, bomb))
    for data in (
        bomb,
        msgpack.packb(msgpack.ExtType(0x50, bomb)),
        b"\xdd\xff\xff\xff\xff",
        b"\xc9\xff\xff\xff\xff\x50",
    ):
        with pytest.raises(ValueError):
            FlatSerializer.loads(data)
