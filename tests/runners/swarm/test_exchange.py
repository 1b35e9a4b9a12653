"""Exchanges of a swarm, with real hosts in one process: rosters, deadlines and reports of missing peers."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest
from toys import ToyPolicy, toy_game

from genrl_graph import Log, Rollouts, TaskBook
from genrl_graph.contract.node import Exchange
from genrl_graph.dag.schedule import compile_graph
from genrl_graph.errors import ExchangeTimeout
from genrl_graph.runners.loop.exchange import ExchangeResult, PeerBehind
from genrl_graph.runners.loop.signals import Interrupted, Stop
from genrl_graph.runners.swarm.admission.rules import Admission, makers
from genrl_graph.runners.swarm.claims import proof_of
from genrl_graph.runners.swarm.exchange import PeerSwarm
from genrl_graph.runners.swarm.host import Host
from genrl_graph.runners.swarm.offers import Inbox, Offer
from genrl_graph.runners.swarm.transport.heartbeat import qualified
from genrl_graph.runners.swarm.transport.identity import Identity
from genrl_graph.runners.swarm.transport.signed import sign_message

SCHEDULE = compile_graph(toy_game())
PROOF = proof_of(SCHEDULE)
TASKS = TaskBook({"tasks": SCHEDULE.nodes["tasks"]})  # type: ignore[dict-item]


def offered(peer: str, round: int, *, seed: int = 0) -> Rollouts:
    """Return the offer of an honest peer of the toy game."""
    tasks = SCHEDULE.nodes["tasks"].run(rng=np.random.default_rng(0), round=round)  # type: ignore[attr-defined]
    made: Rollouts = SCHEDULE.nodes["answer"].run(  # type: ignore[attr-defined]
        tasks, ToyPolicy("policy", 3), rng=np.random.default_rng((seed, round)), log=Log(), round=round, peer=peer
    )
    return made


@dataclass
class Seat:
    """A peer with its host and its exchanges; `sit` recreates the exchanges, as a restarted process would."""

    name: str
    host: Host
    identity: Identity
    node: Exchange
    inbox: Inbox
    stop: Stop
    told: list[str]
    seed: int = 0
    needs: tuple[str, ...] = ()  # roles of those that make the rows of the exchange

    def sit(self) -> None:
        """Create an empty inbox and new exchanges."""
        staleness = self.node.max_staleness
        self.inbox = Inbox(SCHEDULE.protocol, {"answers": staleness})
        self.swarm = PeerSwarm(
            self.host,
            self.inbox,
            name=self.name,
            protocol=SCHEDULE.protocol,
            admissions={"answers": Admission(self.node, makers(SCHEDULE, "answers"), max_staleness=staleness)},
            staleness=staleness,
            sign=partial(sign_message, self.identity),
            stop=self.stop,
            tell=self.told.append,
            roles={"answers": self.needs},
            proof=PROOF,
        )

    def open(self, round: int) -> None:
        """Begin a round and open its exchange."""
        self.swarm.begin(round)
        self.swarm.open(self.node, round=round, peer=self.name, offer=offered(self.name, round, seed=self.seed))

    def appear(self, round: int) -> None:
        """Begin a round, and tell all members at once."""
        self.swarm.begin(round)
        self.host._thread.run(self.host._presence._announce(directly=True))

    def close(self, round: int) -> ExchangeResult:
        """Close the exchange and return its result."""
        return self.swarm.close(self.node, round=round, peer=self.name, tasks=TASKS, vocabularies={})

    def meet(self, round: int) -> ExchangeResult:
        """Open and close the exchange of a round."""
        self.open(round)
        return self.close(round)


Later = Callable[..., "Future[ExchangeResult]"]
Sit = Callable[..., Seat]


@pytest.fixture
def later() -> Iterator[Later]:
    """Return a function that runs a call in a background thread."""
    with ThreadPoolExecutor(4) as pool:
        yield pool.submit


@pytest.fixture
def sit(start_host: Callable[..., Host], key: Callable[[str], Identity], later: Later) -> Iterator[Sit]:
    """Return a function that starts a peer of this test's own swarm with the given `Exchange` params."""
    seats: list[Seat] = []

    def start(
        name: str,
        as_key: str = "",
        seed: int = 0,
        needs: tuple[str, ...] = (),
        roles: tuple[str, ...] = (),
        **params: Any,
    ) -> Seat:
        node = SCHEDULE.nodes["answers"].model_copy(update={"timeout_s": 0.6, "min_peers": 1} | params)
        assert isinstance(node, Exchange)
        seat = Seat(name, None, key(as_key or name), node, None, Stop(), [], seed, needs)  # type: ignore[arg-type]
        host = start_host(
            name,
            seats[0].host if seats else None,
            identity=seat.identity,
            fixed=True,
            roles=roles,
            on_push=lambda peer_id, data: seat.inbox.take(peer_id, data),
        )
        seat.host = host
        seat.sit()
        seats.append(seat)
        for each in seats:
            each.host.look()
        return seat

    yield start
    for seat in seats:
        seat.stop.signum = 2  # calls that still wait in the background end
        seat.host.close()


def peers_of(meeting: ExchangeResult) -> list[str]:
    return [packet.peer for packet in meeting.packets]


def rules_of(meeting: ExchangeResult) -> list[tuple[str, str]]:
    refusals = meeting.refusals
    return list(zip(refusals["peer"], refusals["rule"], strict=True)) if refusals else []


def test_an_exchange_waits_for_a_peer_of_each_role_that_makes_its_rows(sit: Sit, later: Later) -> None:
    ann = sit("ann", needs=("solver", "judge"), roles=("judge",))
    sit("carol", needs=("solver", "judge"), roles=("judge", "asker"))
    waiting = later(ann.meet, 0)
    time.sleep(2 * ann.node.timeout_s)
    assert not waiting.done(), "two peers are here, and none of them is a solver"
    bob = sit("bob", needs=("solver", "judge"), roles=("solver",))
    assert peers_of(bob.meet(0)) == ["ann", "bob"]
    assert peers_of(waiting.result(20)) == ["ann", "bob"]


def test_a_peer_without_roles_plays_all_of_them(sit: Sit, later: Later) -> None:
    ann, bob = sit("ann", needs=("solver",), roles=("judge",)), sit("bob", needs=("solver",))
    waiting = later(ann.meet, 0)
    assert peers_of(bob.meet(0)) == peers_of(waiting.result(20)) == ["ann", "bob"]
    assert peers_of(later(bob.meet, 1).result(20)) == ["bob"], "alone it lacks no role"


def test_an_exchange_that_does_not_wait_for_a_role_says_which_is_missing(sit: Sit) -> None:
    alone = {"needs": ("solver", "judge"), "roles": ("judge",)}
    ann = sit("ann", on_short="continue", **alone)
    assert peers_of(ann.meet(0)) == ["ann"]
    assert ann.told == ["answers: closed without a peer of role 'solver'"]
    bob = sit("bob", on_short="fail", **alone)
    with pytest.raises(ExchangeTimeout, match=r"wants 1 peer and one of role 'solver' within .* start one with --role"):
        bob.open(0)


def test_peers_get_each_others_rows_in_the_order_of_their_names(sit: Sit, later: Later) -> None:
    bob, ann = sit("bob", min_peers=2), sit("ann", min_peers=2)
    for round in range(3):
        found = [each.result(20) for each in [later(bob.meet, round), later(ann.meet, round)]]
        for meeting in found:
            assert peers_of(meeting) == ["ann", "bob"]
            assert [packet.rows for packet in meeting.packets] == [offered("ann", round), offered("bob", round)]
            assert meeting.metrics == {"late": 0.0, "refused": 0.0}
            assert not meeting.facts


def test_who_does_not_answer_is_late_and_left_out_for_longer_each_time(sit: Sit) -> None:
    """Announcements of other rounds do not help: only rows in time do."""
    ann, bob = sit("ann"), sit("bob")
    late, costs = [], Counter[str]()
    for round in range(6):
        bob.appear(round)
        bob.host.push(ann.host.peer_id, announcement(bob, max(0, round - 3))).result(10)
        meeting = ann.meet(round)
        late += [round] * ("missing" in meeting.facts)
        costs.update(ann.swarm.conduct.accounts.take())
    assert late == [0, 2, 5]
    assert (costs["peer/others/late"], costs["peer/bob/late"]) == (2.0, 1.0), "named when it was late again and again"


def test_nobody_waits_for_one_that_was_late_and_its_rows_are_taken_if_they_come(sit: Sit, later: Later) -> None:
    ann, bob, eve = (sit(name, timeout_s=4.0, min_peers=2) for name in ("ann", "bob", "eve"))
    met = [later(each.meet, 0) for each in (ann, eve)]
    assert met[0].result(20).facts == {"missing": {"bob": "late"}}
    for each in (bob, eve):
        each.appear(2)
    started = time.monotonic()
    later(eve.meet, 2)
    assert ann.meet(2).facts == {"missing": {"bob": "late"}}
    assert time.monotonic() - started < 2.0, "a tenth of 4 s, once eve's rows are here"
    for each in (bob, eve):
        each.appear(5)
    met = [later(each.meet, 5) for each in (bob, eve)]
    assert peers_of(ann.meet(5)) == ["ann", "bob", "eve"]


def announcement(seat: Seat, round: int, **head: Any) -> bytes:
    """Return a signed announcement of a peer; `head` replaces values in its head."""
    values: dict[str, Any] = {"peer": seat.name, "round": round, "node": "answers", "protocol": SCHEDULE.protocol}
    offer = Offer(**(values | {"size": 9, "sha256": "0" * 64} | head))
    return offer.announced(partial(sign_message, seat.identity))


@pytest.mark.parametrize("others", [0, 1])
def test_too_few_fail_the_run_where_the_node_says_so(sit: Sit, others: int) -> None:
    ann = sit("ann", on_short="fail", min_peers=2)
    for _ in range(others):
        sit("bob")
    with pytest.raises(
        ExchangeTimeout, match=r"wants 2 peers within 0.6 s, but 1 (are here|came; missing: bob \(late\))"
    ):
        ann.meet(0)


def test_too_few_go_on_where_the_node_says_so(sit: Sit) -> None:
    ann = sit("ann", on_short="continue", min_peers=3)
    assert peers_of(ann.meet(0)) == ["ann"]


def test_too_few_wait_beyond_the_deadline_for_those_who_come(sit: Sit, later: Later) -> None:
    ann = sit("ann", min_peers=2)
    opened = later(ann.meet, 0)
    with pytest.raises(TimeoutError):
        opened.result(1.5)
    bob = sit("bob", min_peers=2)
    assert peers_of(bob.meet(0)) == ["ann", "bob"]
    assert peers_of(opened.result(10)) == ["ann", "bob"]


def test_a_signal_ends_the_wait(sit: Sit, later: Later) -> None:
    ann = sit("ann", min_peers=2)
    opened = later(ann.meet, 0)
    ann.stop.signum = 2
    with pytest.raises(Interrupted):
        opened.result(5)


def test_rows_of_an_earlier_round_are_taken_once(sit: Sit, later: Later) -> None:
    ann, bob = sit("ann", max_staleness=2), sit("bob", max_staleness=2, min_peers=2)
    ann.open(0)
    bob.open(0)
    bob.open(1)
    first = ann.close(0)
    assert peers_of(first) == ["ann", "bob"]
    bob.swarm.open(bob.node, round=1, peer="bob", offer=offered("bob", 1))
    third = ann.meet(2)
    assert third.facts == {"stale": {"bob": 1}}
    assert third.packets[1].rows == offered("bob", 1)
    assert ann.meet(3).facts.get("stale") is None


def test_an_announcement_that_was_lost_is_asked_for(sit: Sit) -> None:
    """Restart a peer: it has lost the announcements it received, and their authors do not push them again."""
    ann, bob = sit("ann", timeout_s=20.0), sit("bob", timeout_s=20.0)
    ann.open(0)
    bob.sit()
    assert peers_of(bob.meet(0)) == ["ann", "bob"]
    assert peers_of(ann.close(0)) == ["ann", "bob"]


def test_a_restarted_peer_still_gives_what_it_had_closed(sit: Sit, later: Later) -> None:
    ann, bob = sit("ann", min_peers=2), sit("bob", min_peers=2)
    opened = later(ann.meet, 0)
    bob.host.beat(0)
    bob.sit()
    bob.swarm.resume(1)
    assert bob.swarm.wanted(bob.node, round=0)
    bob.swarm.open(bob.node, round=0, peer="bob", offer=offered("bob", 0))
    assert bob.close(0).packets == ()
    assert peers_of(opened.result(20)) == ["ann", "bob"]
    assert not bob.swarm.wanted(bob.node, round=1)


def test_a_peer_goes_to_where_the_others_serve_rows(sit: Sit) -> None:
    ann, bob, eve = sit("ann"), sit("bob"), sit("eve")
    bob.host.push(ann.host.peer_id, announcement(bob, 10**6)).result(10)
    eve.open(3)
    eve.appear(3)
    with pytest.raises(PeerBehind) as behind:
        ann.swarm.begin(0)
    assert behind.value.round == 3


def test_a_peer_that_has_begun_a_round_proves_it_by_the_rows_of_the_one_before(sit: Sit) -> None:
    ann, bob = sit("ann"), sit("bob")
    bob.open(3)
    bob.appear(4)
    with pytest.raises(PeerBehind) as behind:
        ann.swarm.begin(0)
    assert behind.value.round == 4


def test_a_heartbeat_that_is_rounds_old_leads_to_where_its_peer_is_now(sit: Sit) -> None:
    ann, bob = sit("ann"), sit("bob")
    bob.appear(4)
    bob.swarm.open(bob.node, round=9, peer="bob", offer=offered("bob", 9))
    with pytest.raises(PeerBehind) as behind:
        ann.swarm.begin(0)
    assert behind.value.round == 9


def test_a_peer_that_is_a_round_behind_plays_it_with_the_rows_that_the_others_still_serve(sit: Sit) -> None:
    ann, bob, eve = sit("ann", min_peers=3, timeout_s=20.0), sit("bob"), sit("eve")
    for other in (bob, eve):
        other.meet(1)
        other.appear(2)
    began = time.monotonic()
    assert peers_of(ann.meet(1)) == ["ann", "bob", "eve"]
    assert time.monotonic() - began < 10, "waits for nobody"


def test_a_peer_that_lets_all_others_back_off_still_sees_that_they_have_gone_on(sit: Sit, later: Later) -> None:
    ann, bob = sit("ann", min_peers=2, timeout_s=1.0), sit("bob")
    bob.open(0)
    assert peers_of(ann.meet(0)) == ["ann", "bob"]
    bob.close(0)
    for round in range(1, 5):
        ann.swarm.conduct.backoff.offend(bob.host.peer_id, round=round)
    meeting = later(ann.meet, 5)
    bob.open(9)  # announces it to nobody, and its heartbeat is in the DHT alone
    with pytest.raises(PeerBehind) as behind:
        meeting.result(20)
    assert behind.value.round == 9


def test_a_peer_that_waits_for_those_that_have_finished_and_left_ends_as_well(sit: Sit, later: Later) -> None:
    ann, bob = sit("ann", min_peers=3, timeout_s=1.5), sit("bob")
    bob.meet(1)
    bob.appear(2)
    ann.swarm.begin(1)  # and hears that bob has played round 1
    eve = sit("eve")
    eve.appear(1)  # and serves nothing
    meeting = later(ann.meet, 1)
    time.sleep(1.0)
    for other in (bob, eve):
        other.host.close()
    with pytest.raises(PeerBehind) as behind:
        meeting.result(20)
    assert behind.value.round == 2


def test_heartbeats_and_announcements_alone_move_nobody(sit: Sit) -> None:
    ann, bob, eve = sit("ann"), sit("bob"), sit("eve")
    bob.appear(10**9)
    eve.host.push(ann.host.peer_id, announcement(eve, 10**9)).result(10)
    for round in range(3):
        assert peers_of(ann.meet(round)) == ["ann"]


def test_newcomers_do_not_outvote_a_peer_that_has_played_along(sit: Sit, later: Later) -> None:
    ann, bob = sit("ann", min_peers=2), sit("bob", min_peers=2)
    for round in range(3):
        opened = later(bob.meet, round)
        assert peers_of(ann.meet(round)) == ["ann", "bob"]
        opened.result(20)
    for other in (sit("eve"), sit("kim")):
        other.open(50)
        other.appear(50)
    bob.appear(3)
    ann.swarm.begin(3)
    later(bob.meet, 3)
    assert peers_of(ann.meet(3)) == ["ann", "bob"]


def test_two_keys_with_one_name_are_two_peers(sit: Sit, later: Later) -> None:
    """A run whose name somebody else claims goes on with its own key, under a name that nobody can take."""
    ann, bob = sit("ann", min_peers=3), sit("bob", min_peers=3)
    thief = sit("bob", as_key="thief", seed=1, min_peers=3)
    opened = [later(each.meet, 0) for each in (bob, thief)]
    found = ann.meet(0)
    names = sorted(qualified("bob", each.identity.peer_id) for each in (bob, thief))
    assert peers_of(found) == ["ann", *names] and not found.refusals
    for packet, name in zip(found.packets[1:], names, strict=True):
        assert set(packet.rows.values("peer")) == {name}
    groups = [set(packet.rows.values("group_id")) for packet in found.packets]
    assert not groups[1] & groups[2]
    assert [bool(each.result(20)) for each in opened] == [True, True]


@pytest.mark.parametrize(
    ("head", "rule"),
    [
        ({"protocol": "p2"}, "protocol"),
        ({"node": "prizes"}, "node"),
        ({"sha256": "no"}, "sha256"),
        ({"size": 0}, "round 0, size 0"),
        ({"peer": "ann"}, "peer"),
        ({"size": 10 << 30}, "size"),
    ],
)
def test_a_forged_announcement_is_refused_and_its_author_left_out(sit: Sit, head: dict[str, Any], rule: str) -> None:
    ann, bob = sit("ann"), sit("bob")
    bob.host.push(ann.host.peer_id, announcement(bob, 0, **head)).result(10)
    first = ann.meet(0)
    assert ("bob", rule) in rules_of(first)
    assert first.metrics["refused"] >= 1
    bob.host.push(ann.host.peer_id, announcement(bob, 1)).result(10)
    assert not ann.meet(1).facts, "bob is out for a round"
    bob.host.push(ann.host.peer_id, announcement(bob, 2)).result(10)
    assert "bob" in ann.meet(2).facts["missing"]  # type: ignore[operator]


def test_rows_that_are_announced_and_not_served_are_slow(sit: Sit) -> None:
    ann, bob = sit("ann"), sit("bob")
    ann.open(0)
    bob.host.push(ann.host.peer_id, announcement(bob, 0)).result(10)
    found = ann.close(0)
    assert found.facts == {"missing": {"bob": "slow"}}
    assert found.metrics["late"] == 1.0


def test_what_comes_too_late_is_told_but_no_offence(sit: Sit) -> None:
    ann, bob = sit("ann"), sit("bob")
    ann.swarm.begin(5)
    bob.host.beat(5)
    bob.host.push(ann.host.peer_id, announcement(bob, 2)).result(10)
    bob.host.push(ann.host.peer_id, announcement(bob, 5)).result(10)
    found = ann.meet(5)
    assert ("bob", "round") in rules_of(found)
    assert found.facts == {"missing": {"bob": "slow"}}, "bob was asked"


def test_someone_elses_announcement_is_refused(sit: Sit) -> None:
    ann, bob, eve = sit("ann"), sit("bob"), sit("eve")
    eve.host.push(ann.host.peer_id, announcement(bob, 0)).result(10)
    assert rules_of(ann.meet(0)) == [("eve", "announcement")]


def test_invented_peers_hold_nobody_back(sit: Sit, later: Later) -> None:
    """Keys that say they are here, and serve nothing, do not outvote a peer that serves a later round."""
    ann, bob, eve = sit("ann", timeout_s=1.0), sit("bob", timeout_s=1.0), sit("eve", timeout_s=1.0)
    opened = later(bob.meet, 0)
    assert peers_of(ann.meet(0)) == ["ann", "bob"], "eve is late"
    opened.result(20)
    bob.open(5)
    bob.appear(5)
    eve.appear(1)
    kim = sit("kim")
    kim.appear(1)
    with pytest.raises(PeerBehind) as behind:
        ann.swarm.begin(1)
    assert behind.value.round == 5
