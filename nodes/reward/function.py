"""`reward.function`: a plain function with TRL's signature as a reward."""

from typing import Literal

from pydantic import Field

from genrl_graph.contract.resources import Log
from genrl_graph.edge_types.rollouts import Scored
from genrl_graph.edge_types.task import TaskBook
from genrl_graph.nodes.reward.scoring.arguments import arguments
from genrl_graph.nodes.reward.scoring.function_calls import CallingReward, Keywords
from genrl_graph.nodes.reward.scoring.rows import Texts


class FunctionReward(CallingReward, name="function"):
    """The value of `function(prompts, completions, **columns)`: one number per completion, None for "cannot judge".

    It is called as TRL calls a reward (<https://huggingface.co/docs/trl/grpo_trainer>), and may be async. A function
    without an importable name (a lambda, a notebook cell) runs in this process and cannot be dumped. With `factory`,
    each process calls the factory once and uses the function that it returns. `format: chat` passes messages, as TRL
    does for chat data, so TRL's own rewards run unchanged; `text` passes strings, the messages of a prompt joined by
    blank lines. Columns are `answer`, the keys of the tasks' metadata, and ids, stage, round, finish reason and token
    ids of the rows.

    With `isolated` it runs in `workers` processes of at most `memory_mb` of address space each; a process that takes
    more than `timeout_s` seconds for a call is killed. In this process there are no limits. A call receives all rows
    of one peer, or `rows_per_call` of them, and never rows of two peers. If it raises, hangs, dies or does not return
    a list of that length, these rows are unjudged; a value that is not a finite number leaves its row unjudged. A
    worker runs one call at a time, async functions included: use more `workers` for parallel calls, or await the rows
    of one call together.
    """

    format: Literal["chat", "text"] = Field(
        default="chat", description="how prompts and completions are passed: as chat messages or as text"
    )

    def run(self, rollouts: Texts, *, tasks: TaskBook, log: Log, peer: str = "") -> Scored[Texts]:
        """Add `reward` and `reward_<term>` to the rollouts; the default term is the function's name.

        Raises `RewardFailed` if the function cannot be loaded or leaves more rows unjudged than `max_unjudged` allows.

        Inputs:
            rollouts: rows to judge
        """

        def keywords(rows: Texts) -> Keywords:
            return arguments(rows, tasks, form=self.format, renamed=self.columns, where=self.place.node)

        return self.scored(rollouts, keywords, log=log, peer=peer)
