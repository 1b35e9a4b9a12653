"""`generate.revise`: each peer reads answers and critiques, then answers again."""

import numpy as np
from pydantic import Field

from genrl_graph.contract.policy import TextPolicy
from genrl_graph.contract.resources import Log
from genrl_graph.edge_types.rollouts import PeerRollouts, Rollouts, Tasks
from genrl_graph.nodes.generate.chat import ChatGenerator
from genrl_graph.nodes.generate.prompting.prompts import ANSWERS
from genrl_graph.nodes.generate.prompting.quoting import TooLong

_ASK = """\

Readers said about them:
{% for critique in critiques %}

Reader {{ critique.number }}:
{{ critique.completion | trim }}
{% endfor %}

Now answer the question yourself. Think step by step. Then end with a line that holds only #### and the final answer."""

TEMPLATE = ANSWERS + _ASK


class Revise(ChatGenerator, name="revise"):
    """Answers again, with the earlier answers and their critiques in the prompt.

    `parent_ids` lists the quoted answers by number, then the quoted critiques by number.
    """

    template: str = Field(
        default=TEMPLATE,
        description="Jinja template of the user message; reads `task` and the rows of `answers` and `critiques`",
    )
    too_long: TooLong = "drop_quoted"

    def run(
        self,
        tasks: Tasks,
        answers: PeerRollouts,
        critiques: PeerRollouts,
        policy: TextPolicy,
        *,
        rng: np.random.Generator,
        log: Log,
        round: int,
        peer: str,
    ) -> Rollouts:
        """Sample revised answers, in task order.

        Inputs:
            tasks: questions to answer again
            answers: earlier answers, which the prompt numbers per task
            critiques: critiques of these answers
            policy: policy that samples
        """
        upstream = {"answers": answers, "critiques": critiques}
        return self.complete(tasks, policy, upstream, rng=rng, log=log, round=round, peer=peer)
