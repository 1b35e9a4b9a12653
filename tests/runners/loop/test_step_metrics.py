"""Step metrics: the runner computes rewards, tokens and shares from the rows of any node, failed rows left out."""

import json
from pathlib import Path

import numpy as np
from toys import Centred, Draw, Numbers, ToyPolicy, ToyPolicyCarry

from genrl_graph import Graph, PeerRollouts, Rollouts, Scored, Tasks, play, score
from genrl_graph.contract.node import Reward
from genrl_graph.contract.resources import Log
from genrl_graph.store.run_store import RunStore


class Failing(Draw, name="metrics_failing"):
    """Every fourth completion fails, every other one reaches the limit of tokens."""

    def run(
        self,
        tasks: Tasks,
        policy: ToyPolicy,
        seen: PeerRollouts | None = None,
        *,
        rng: np.random.Generator,
        log: Log,
        round: int,
        peer: str,
    ) -> Rollouts:
        rows = super().run(tasks, policy, seen, rng=rng, log=Log(), round=round, peer=peer).rows()
        finish = ["length" if at % 2 else "failed" if at % 4 == 0 else "stop" for at in range(len(rows))]
        return Rollouts.from_rows([row | {"finish_reason": how} for row, how in zip(rows, finish, strict=True)])


class Unsure(Reward, name="metrics_unsure"):
    """Cannot judge every third row."""

    max_unjudged: float = 1.0

    def run(self, rollouts: Rollouts) -> Scored:
        places = np.arange(len(rollouts), dtype=float)
        return score(rollouts, {"place": np.where(places % 3 == 0, np.nan, places)})


def test_metrics_are_those_of_the_stored_rows(tmp_path: Path) -> None:
    graph = Graph("measured")
    policy = graph.carry("policy", ToyPolicyCarry())
    tasks = graph.add("tasks", Numbers())
    answer = graph.add("answer", Failing(num_generations=4), tasks=tasks, policy=policy)
    graph.add("credit", Centred(), scored=graph.add("score", Unsure(), rollouts=answer))
    run = play(graph, out=tmp_path / "run", rounds=1, quiet=True)
    (line,) = map(json.loads, (run.folder / "metrics.jsonl").read_text().splitlines())
    store = RunStore.open(run.folder)
    rows, rewards = store.table("answer").to_pylist(), store.table("score")["reward"].to_pylist()
    finished = [row for row in rows if row["finish_reason"] != "failed"]
    lengths = [len(row["completion_ids"]) for row in finished]
    assert 0 < len(finished) < len(rows)
    assert line["answer/tokens"] == sum(lengths)
    assert line["answer/completion_length"] == sum(lengths) / len(lengths)
    assert line["answer/truncated"] == len([row for row in finished if row["finish_reason"] == "length"]) / len(
        finished
    )
    judged = [reward for reward in rewards if reward == reward]
    assert line["score/reward"] == line["score/reward_place"] == sum(judged) / len(judged)
    lost = [row for row, reward in zip(rows, rewards, strict=True) if row in finished and reward != reward]
    assert line["score/unjudged"] == len(lost) / len(finished) > 0
