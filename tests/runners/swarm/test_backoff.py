"""Backoff: a peer that misbehaves is ignored for longer and longer, and forgiven in time."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from genrl_graph.runners.swarm.backoff import MOST_PEERS, PROBATION, Backoff


def heard(backoff: Backoff, misbehaves: "list[bool]") -> list[int]:
    """Return the rounds in which a peer is heard that, whenever heard, behaves as `misbehaves` says."""
    rounds = []
    for round, bad in enumerate(misbehaves):
        if not backoff.is_out("eve", round=round):
            rounds.append(round)
            (backoff.offend if bad else backoff.serve)("eve", round=round)
    return rounds


def test_every_offence_doubles_the_time_out_up_to_64_rounds() -> None:
    rounds = heard(Backoff(), [True] * 300)
    assert [later - earlier - 1 for earlier, later in pairwise(rounds)] == [1, 2, 4, 8, 16, 32, 64, 64, 64]


def test_good_rounds_are_forgiven_one_step_each() -> None:
    backoff = Backoff()
    assert heard(backoff, [True] * 4 + [False] * 6) == [0, 2, 5, 6, 7, 8, 9]
    backoff.offend("eve", round=10)
    assert backoff.until("eve") == 12  # one round again
    assert backoff.offences == {"eve": 3}


def test_of_several_packets_in_a_round_the_worst_counts_once() -> None:
    backoff = Backoff()
    for misbehaved in (False, True, True, False):
        (backoff.offend if misbehaved else backoff.serve)("eve", round=3)
    assert backoff.until("eve") == 5 and backoff.offences == {"eve": 1}
    assert not backoff.is_out("eve", round=5) and backoff.is_out("eve", round=4)
    assert not backoff.is_out("anna", round=4) and backoff.until("anna") == 0


@given(st.lists(st.booleans(), max_size=60))
def test_whoever_behaves_is_never_left_out_and_equal_rounds_are_judged_alike(misbehaves: list[bool]) -> None:
    one, other = Backoff(), Backoff()
    assert heard(one, misbehaves) == heard(other, misbehaves)
    for round in range(len(misbehaves)):
        one.serve("anna", round=round)
    assert not one.is_out("anna", round=len(misbehaves))
    assert sum(one.offences.values()) <= sum(misbehaves)


def test_names_without_end_are_forgotten() -> None:
    backoff = Backoff()
    for at in range(MOST_PEERS + 100):
        backoff.offend(f"peer{at}", round=0)
    assert len(backoff.offences) == len(backoff._records) == MOST_PEERS


def test_who_has_offended_is_not_waited_for_until_it_has_served_for_long() -> None:
    """One that is late every few rounds costs one wait, not one each time."""
    backoff = Backoff()
    assert backoff.is_awaited("eve")
    backoff.offend("eve", round=0)
    for round in range(2, 2 + PROBATION):
        assert not backoff.is_awaited("eve")
        backoff.serve("eve", round=round)
        backoff.serve("eve", round=round)  # the second exchange of a round
    assert backoff.is_awaited("eve")


def test_time_alone_forgives_nothing() -> None:
    backoff = Backoff()
    for round in (0, 100, 200):
        backoff.offend("eve", round=round)
    assert backoff.until("eve") == 205
