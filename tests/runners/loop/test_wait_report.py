"""A peer is told for whom an exchange waits."""

import pytest

from genrl_graph.contract.node import Place
from genrl_graph.nodes.library import Gather
from genrl_graph.runners.loop.exchange import WaitReport


@pytest.mark.parametrize(
    ("waited", "told"),
    [
        (4, []),
        (9, ["answers: waiting for bob (15 of 60 s)"]),
        (45, [f"answers: waiting for bob ({seconds} of 60 s)" for seconds in (15, 20, 30, 50)]),
    ],
)
def test_who_is_waited_for_is_told_ever_more_rarely(
    waited: int, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr("genrl_graph.runners.loop.exchange.time.monotonic", lambda: now)
    node, lines = Gather(min_peers=2, timeout_s=60).placed(Place("answers")), list[str]()
    report = WaitReport(node, lines.append, since=now - 10)  # it opened while this peer still computed
    for _ in range(waited):
        now += 1
        report.waiting(lambda: "bob")
    report.closed([])
    assert lines == told
    report.closed(["bob (late)", "carol (gone)"])
    assert lines[len(told) :] == ["answers: closed without bob (late), carol (gone)"]
