"""The Python twin of `tiny.yaml`."""

from pathlib import Path

from genrl_graph import Graph, RunConfig
from genrl_graph.nodes.advantage.group import GroupAdvantage
from genrl_graph.nodes.generate.answer import Answer
from genrl_graph.nodes.policy.tiny_lm import TinyLM
from genrl_graph.nodes.reward.regex import RegexReward
from genrl_graph.nodes.source.hf_dataset import HfDataset
from genrl_graph.nodes.update.grpo import Grpo

DIGIT_SUMS = Path(__file__).resolve().parent / "data" / "digit_sums.jsonl"


def tiny() -> Graph:
    """The last digit of the sum of two digits: one stage, one peer, one minute."""
    g = Graph("tiny", run=RunConfig(rounds=400))
    policy = g.carry("policy", TinyLM(alphabet="0123456789+=", initializer_range=0.1))
    tasks = g.add("tasks", HfDataset(path=str(DIGIT_SUMS), num_tasks=32))
    speaker = Answer(template="{{ task.question }}", num_generations=16, max_new_tokens=1)
    answer = g.add("answer", speaker, tasks=tasks, policy=policy)
    score = g.add("score", RegexReward(pattern=r"^(\d)$", compare=True, term="correct"), rollouts=answer)
    credit = g.add("credit", GroupAdvantage(), scored=score)
    trainer = Grpo(learning_rate=1e-3, decay="linear", decay_steps=400, max_batch_tokens=65536)
    g.next_round(policy=g.add("update", trainer, policy=policy, credited=[credit]))
    return g
