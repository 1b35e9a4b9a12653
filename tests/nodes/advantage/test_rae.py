"""`advantage.rae` against the recursion of its paper."""

import numpy as np
import pytest
from fixture_types import MakeRollouts, MakeSteps

from genrl_graph import Log, score
from genrl_graph.nodes.advantage.rae import RoleAdvantage
from genrl_graph.nodes.update.baselines import Baselines, TrackBaselines


def by_the_paper(outcomes: list[tuple[str, float]], decay: float) -> dict[str, float]:
    """Compute equation 4 of arXiv 2506.24119, one trajectory after the other."""
    means: dict[str, float] = {}
    for role, outcome in outcomes:
        means[role] = decay * means.get(role, 0.0) + (1 - decay) * outcome
    return means


def test_every_role_has_a_running_mean_and_every_step_the_outcome_against_it(make_steps: MakeSteps) -> None:
    rows = make_steps([[0.0, 1.0], [-1.0], [0.0, 0.0, 1.0], [-1.0, 0.0]], seats=[0, 1, 0, 1])
    expected = by_the_paper([("tasks/0", 1.0), ("tasks/1", -1.0), ("tasks/0", 1.0), ("tasks/1", -1.0)], 0.9)
    log = Log()
    baselines = TrackBaselines(decay=0.9).run(Baselines(), [rows.take([0, 1, 2]), rows.take([3, 4, 5, 6, 7])], log=log)
    assert baselines.means == pytest.approx(expected)
    assert log.metrics["tasks/0/baseline"] == pytest.approx(0.19)
    credited = RoleAdvantage().run(rows, baselines, log=log)
    first, second = 1.0 - expected["tasks/0"], -1.0 - expected["tasks/1"]
    assert credited.values("advantage") == pytest.approx([first] * 2 + [second] + [first] * 3 + [second] * 2)


def test_a_role_that_was_never_seen_has_the_baseline_0_and_games_do_not_mix(make_steps: MakeSteps) -> None:
    baselines = TrackBaselines(decay=0.5).run(Baselines(), [make_steps([[1.0]], source="chess")], log=Log())
    assert RoleAdvantage().run(make_steps([[1.0]], source="go"), baselines, log=Log()).values("advantage") == [1.0]
    assert RoleAdvantage().run(make_steps([[1.0]], source="chess"), baselines, log=Log()).values("advantage") == [0.5]


def test_what_could_not_be_judged_moves_no_baseline_and_gets_no_advantage(make_steps: MakeSteps) -> None:
    rows = make_steps([[float("nan")], [1.0]], finish_reason=["failed", "terminated"])
    baselines = TrackBaselines(decay=0.5).run(Baselines(), [rows], log=Log())
    assert baselines.means == {"tasks/0": 0.5}
    assert np.isnan(RoleAdvantage().run(rows, baselines, log=Log()).numpy("advantage")).tolist() == [True, False]


def test_the_role_of_a_text_is_its_node(make_rollouts: MakeRollouts) -> None:
    rows = score(make_rollouts(["a", "b"], node=["solve", "propose"]), {"won": [1.0, -1.0]})
    baselines = TrackBaselines(decay=0.5).run(Baselines(), [rows], log=Log())
    assert baselines.means == {"tasks/solve": 0.5, "tasks/propose": -0.5}
    assert RoleAdvantage().run(rows, baselines, log=Log()).values("advantage") == [0.5, -0.5]
