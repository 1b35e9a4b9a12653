"""Consequences of what other peers do, as the user sees them: exit codes, summaries, accounts, and replays."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from toys import Centred, Draw, Numbers, Step, ToyPolicyCarry, toy_game

from genrl_graph import Graph
from genrl_graph.cli import run as cli_run
from genrl_graph.cli import run_command
from genrl_graph.contract.registry import import_file
from genrl_graph.contract.resources import OVER_BUDGET
from genrl_graph.errors import RoundsSkipped
from genrl_graph.nodes.exchange.gather import Gather
from genrl_graph.nodes.reward.function import FunctionReward
from genrl_graph.runners.loop.exchange import LocalSwarm, PeerBehind, Swarm
from genrl_graph.runners.loop.runner import LocalRunner
from genrl_graph.runners.play import play
from genrl_graph.runners.replay.replay import replay
from genrl_graph.store.run_store import RunStore


class SkippingRunner(LocalRunner):
    """A runner whose swarm is in round 3 when this peer begins round 1, and which has accounts of another peer."""

    def begin(self, round: int) -> None:
        """Raise `PeerBehind` in round 1."""
        if round == 1:
            raise PeerBehind(3)

    def metrics(self) -> Mapping[str, float]:
        """Return what a peer cost."""
        return {"peer/eve/bytes": 1000.0, "peer/eve/late": 1.0, "peer/bob@hdLmTNsa/seconds": 2.5}


def test_rounds_that_were_not_played_are_in_the_summary_and_the_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "game.yaml").write_text(toy_game().dump())
    monkeypatch.setattr(cli_run, "runner_of", lambda args: SkippingRunner(2))
    out = tmp_path / "run"
    code = run_command(["run", str(tmp_path / "game.yaml"), "-o", str(out), "run.rounds=5", "run.checkpoint_every=1"])
    told = capsys.readouterr().err
    assert code == RoundsSkipped.exit_code == 15, told
    assert "2 of 5 rounds were not played: the swarm was ahead" in told
    assert told.splitlines()[-1] == (
        f"genrl-graph: {out}: 2 of 5 rounds were not played, because the swarm was ahead; the others are complete"
    )
    resumed = play(toy_game(), out=out, rounds=6, resume=True, quiet=True, runner=SkippingRunner(2))
    assert resumed.unplayed == 2, "of the session before, behind the checkpoint"
    assert run_command(["runs", str(out)]) == 0
    shown = capsys.readouterr().out
    table = shown[shown.index("what other peers cost") :].splitlines()
    assert [line.split()[0] for line in table[4:6]] == ["bob_at_hdLmTNsa", "eve"]
    assert table[5].split()[1:] == ["8000", "8", "0"], "4 rounds of 2 peers"


class WatchedRunner(LocalRunner):
    """Peers of one process that do not trust each other: the time that they take is limited."""

    def start(self, *args, **options) -> tuple[Path, Swarm]:  # type: ignore[no-untyped-def]
        """Return the folder and a swarm without trust."""
        folder, _ = super().start(*args, **options)
        swarm = LocalSwarm(self.names)
        swarm.trusted = False
        return folder, swarm


JUDGE = """
import time

def slow_for_one(completions, peer, **columns):
    time.sleep(0.1 if peer[0] == "peer0001" else 0.0)
    return [1.0] * len(completions)
"""


def judged_game(weight: float) -> Graph:
    """Return a game in which each peer judges the rows of both."""
    game = Graph("judged")
    policy = game.carry("policy", ToyPolicyCarry(bias=3))
    answer = game.add("answer", Draw(), tasks=game.add("tasks", Numbers(num_tasks=3)), policy=policy)
    judge = FunctionReward(function="slow_judge:slow_for_one", rows_per_call=1, isolated=False, weight=weight)
    judge = judge.model_copy(update={"peer_seconds": 0.05})
    scored = game.add("score", judge, rollouts=game.add("answers", Gather(min_peers=2), rows=answer))
    credited = game.add("credit", Centred(), scored=scored)
    game.next_round(policy=game.add("update", Step(), policy=policy, credited=[credited]))
    return game


def unjudged(run: Path) -> list[tuple[str, str]]:
    """Return holder and id of the rows without a reward."""
    rows = RunStore.open(run).table("score").to_pylist()
    return [(row["holder"], row["id"]) for row in rows if np.isnan(row["reward"])]


def test_a_replay_leaves_out_the_rows_that_lacked_time_and_no_others(tmp_path: Path) -> None:
    script = tmp_path / "slow_judge.py"
    script.write_text(JUDGE)
    import_file(script)
    run, again = tmp_path / "run", tmp_path / "again"
    play(judged_game(1.0), out=run, rounds=2, quiet=True, runner=WatchedRunner(2))
    facts = [json.loads(step["facts"]) for step in RunStore.open(run).steps().to_pylist() if step["node"] == "score"]
    assert [list(fact.get(OVER_BUDGET, {})) for fact in facts] == [["peer0001"], [], ["peer0001"], []]
    assert {holder for holder, _ in unjudged(run)} == {"peer0000"}
    assert len(unjudged(run)) == sum(len(ids) for fact in facts for ids in fact.get(OVER_BUDGET, {}).values())
    script.write_text(JUDGE.replace("0.1 if", "0.0 if"))
    import_file(script)
    replay(run, judged_game(2.0), out=again, quiet=True)
    assert unjudged(again) == unjudged(run)
    rewards = RunStore.open(again).table("score").column("reward").to_numpy()
    assert set(rewards[np.isfinite(rewards)]) == {2.0}
