"""`generate.answer`: each peer answers the question of every task."""

import numpy as np
from pydantic import Field

from genrl_graph.contract.policy import TextPolicy
from genrl_graph.contract.resources import Log
from genrl_graph.edge_types.rollouts import Rollouts, Tasks
from genrl_graph.nodes.generate.chat import ChatGenerator

TEMPLATE = """\
{{ task.question }}

Think step by step. Then end with a line that holds only #### and the final answer."""


class Answer(ChatGenerator, name="answer"):
    """Answers each task's question."""

    template: str = Field(default=TEMPLATE, description="Jinja template of the user message; reads `task`")

    def run(
        self, tasks: Tasks, policy: TextPolicy, *, rng: np.random.Generator, log: Log, round: int, peer: str
    ) -> Rollouts:
        """Sample answers, in task order.

        Inputs:
            tasks: questions to answer
            policy: policy that samples
        """
        return self.complete(tasks, policy, {}, rng=rng, log=log, round=round, peer=peer)
