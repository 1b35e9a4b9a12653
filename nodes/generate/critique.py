"""`generate.critique`: each peer reads the answers of all peers and names the best one."""

from typing import ClassVar

import numpy as np
from pydantic import Field

from genrl_graph.contract.policy import TextPolicy
from genrl_graph.contract.resources import Log
from genrl_graph.edge_types.rollouts import PeerRollouts, Rollouts, Tasks
from genrl_graph.nodes.generate.chat import ChatGenerator
from genrl_graph.nodes.generate.prompting.prompts import ANSWERS
from genrl_graph.nodes.generate.prompting.quoting import TooLong

_ASK = """\

Which student is right? Say in a few words why. Then end with the line
Choice: Student #k
where k is that student's number, or with the line
Choice: none
if all are wrong."""

TEMPLATE = ANSWERS + _ASK


class Critique(ChatGenerator, name="critique"):
    """Names the best of the answers, which the prompt quotes as those of numbered students.

    Student #k is the rollout `parent_ids[k - 1]`. A task without answers gives failed rows.
    """

    template: str = Field(
        default=TEMPLATE, description="Jinja template of the user message; reads `task` and the rows of `answers`"
    )
    too_long: TooLong = "drop_quoted"

    needs: ClassVar[tuple[str, ...]] = ("answers",)

    def run(
        self,
        tasks: Tasks,
        answers: PeerRollouts,
        policy: TextPolicy,
        *,
        rng: np.random.Generator,
        log: Log,
        round: int,
        peer: str,
    ) -> Rollouts:
        """Sample critiques, in task order.

        Inputs:
            tasks: questions that were answered
            answers: answers to choose from, which the prompt numbers per task
            policy: policy that samples
        """
        return self.complete(tasks, policy, {"answers": answers}, rng=rng, log=log, round=round, peer=peer)
