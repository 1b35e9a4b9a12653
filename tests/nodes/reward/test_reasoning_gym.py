"""`reward.reasoning_gym` on entries of its data sets."""

import numpy as np
import pytest
from fixture_types import MakeRollouts

from genrl_graph import Tasks
from genrl_graph.contract.node import Place
from genrl_graph.contract.resources import Log
from genrl_graph.edge_types.task import TaskBook
from genrl_graph.errors import RewardFailed
from genrl_graph.nodes.reward.reasoning_gym import ReasoningGymReward
from genrl_graph.nodes.source.list import ListSource
from genrl_graph.nodes.source.reasoning_gym import ReasoningGym
from genrl_graph.seeds import stream


def played(dataset: str, **params: object) -> tuple[Tasks, TaskBook]:
    source = ReasoningGym(dataset=dataset, num_tasks=2, **params).placed(Place("tasks"))
    return source.run(rng=stream("s"), round=0), TaskBook({"tasks": source})


def test_in_this_process_and_with_params(make_rollouts: MakeRollouts, log: Log) -> None:
    given, tasks = played("basic_arithmetic", params={"min_terms": 5, "max_terms": 6, "size": 10})
    rows = make_rollouts([f"Answer: {given.values('answer')[0]}", "Answer: 0.123"], task_id=given.values("id"))
    for timeout_s in (None, 20.0):
        node = ReasoningGymReward(pattern=r"Answer: (.*)", timeout_s=timeout_s)
        scored = node.run(rows, tasks=tasks, log=log)
        assert scored.values("reward_correct")[0] == 1.0 > scored.values("reward_correct")[1]
        assert scored.values("reward_format") == [1.0, 1.0]


def test_tasks_of_other_sources_cannot_be_judged(make_rollouts: MakeRollouts, log: Log) -> None:
    tasks = TaskBook({"tasks": ListSource(tasks=[{"question": "?", "answer": "1"}]).placed(Place("tasks"))})
    with pytest.raises(RewardFailed, match="'tasks/0' is from no source"):
        ReasoningGymReward().run(make_rollouts(["<answer>1</answer>"]), tasks=tasks, log=log)
    failed = ReasoningGymReward().run(make_rollouts(["x"], finish_reason="failed"), tasks=tasks, log=log)
    assert np.isnan(failed.numpy("reward")).all()
