"""Accounts: who gets a name in the metrics."""

from genrl_graph.runners.swarm.accounts import MOST_IDLE, MOST_NAMED, OTHERS, Accounts


def names(metrics: dict[str, float]) -> set[str]:
    return {key.split("/")[1] for key in metrics}


def test_a_flood_of_invented_peers_takes_no_names() -> None:
    accounts = Accounts()
    for number in range(200):
        accounts.add(f"new{number}", late=1)
    flood = accounts.take()
    accounts.add("bob", rows=8, seconds=0.5)

    assert names(flood) == {OTHERS} and flood["peer/others/late"] == 200
    assert accounts.take()["peer/bob/rows"] == 8


def test_a_peer_that_costs_something_again_and_again_is_named() -> None:
    accounts = Accounts()
    for _ in range(3):
        accounts.add("prophet", refused=2)
        shown = accounts.take()

    assert names(shown) == {"prophet"} and shown["peer/prophet/refused"] == 2


def test_names_are_left_for_those_that_serve_rows_and_end() -> None:
    accounts = Accounts()
    for _ in range(4):
        for number in range(200):
            accounts.add(f"new{number}", refused=1)
        stubborn = names(accounts.take())
    for number in range(200):
        accounts.add(f"peer{number:03}", rows=1)
    serving = names(accounts.take())

    assert len(stubborn - {OTHERS}) == MOST_IDLE
    assert serving == {OTHERS, *(f"peer{number:03}" for number in range(MOST_NAMED - MOST_IDLE))}
