"""Language models of tests that say what a script has them say."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from genrl_graph import Sampling
from genrl_graph.contract.policy import Completion, Randomness
from genrl_graph.nodes.policy.compute.handle import CausalPolicy
from genrl_graph.nodes.policy.tiny_lm import TinyLM

ROLES = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]"


class Scripted(CausalPolicy):
    """A tiny model that says `script(prompt)` and keeps its own tokens of it."""

    script: Callable[[str], str]

    def generate(
        self,
        prompts: Sequence[NDArray[np.int32]],
        *,
        num_generations: int,
        sampling: Sampling,
        rng: Randomness,
        max_batch_tokens: int,
    ) -> list[list[Completion]]:
        rows = []
        for prompt in prompts:
            ids = self.encode(self.script(self.decode(prompt.tolist())), ended=True)[: sampling.max_new_tokens]
            rows.append([Completion(ids, np.zeros(len(ids), np.float32), self.decode(ids.tolist()), "stop")])
        return rows


def scripted(
    script: Callable[[str], str], name: str = "policy", *, chat_template: str = ROLES, max_context: int = 8192
) -> Scripted:
    """Make a policy that says what the script makes of its prompt."""
    model = TinyLM(hidden_size=8, heads=1, layers=1, max_context=max_context, chat_template=chat_template)
    policy = model.init(name, seed=0)
    policy.__class__ = Scripted
    assert isinstance(policy, Scripted)
    policy.script = script
    return policy


def says(*replies: str, chat_template: str = ROLES) -> Scripted:
    """Make a policy that says these replies one after the other."""
    left = iter(replies)
    return scripted(lambda _: next(left), chat_template=chat_template)
