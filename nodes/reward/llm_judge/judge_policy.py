"""Ask a policy of the graph for verdicts."""

from collections.abc import Sequence

import numpy as np

from genrl_graph.contract.policy import Completion, Sampling, TextPolicy
from genrl_graph.errors import ParamError
from genrl_graph.nodes.endpoint.client import Reply
from genrl_graph.nodes.reward.llm_judge.judge_prompt import Question
from genrl_graph.nodes.worker.worker import Failure


def ask_policy(
    policy: TextPolicy,
    questions: Sequence[Question],
    *,
    samples: int,
    sampling: Sampling,
    rng: np.random.Generator,
    max_batch_tokens: int,
    node: str,
) -> dict[Question, list[Reply | Failure]]:
    """Sample `samples` replies to each question in one call; a question longer than the context gets `Failure`.

    Raises `ParamError` if `max_new_tokens` leaves no room for a prompt in the policy's context.
    """
    room = policy.context_length - sampling.max_new_tokens
    if room < 1:
        problem = f"{sampling.max_new_tokens} leave no room for a prompt in the {policy.context_length} tokens"
        raise ParamError(f"{node}.max_new_tokens: {problem} of policy {policy.name!r}")
    prompts = {question: policy.render(question.messages) for question in questions}
    answers: dict[Question, list[Reply | Failure]] = {
        question: [Failure(f"the judge's prompt has {len(ids)} tokens, but at most {room} fit")] * samples
        for question, ids in prompts.items()
    }
    fitting = {question: ids for question, ids in prompts.items() if len(ids) <= room}
    if not fitting:
        return answers
    generated = policy.generate(
        list(fitting.values()),
        num_generations=samples,
        sampling=sampling,
        rng=rng,
        max_batch_tokens=max_batch_tokens,
    )
    for question, completions in zip(fitting, generated, strict=True):
        answers[question] = [_reply(completion) for completion in completions]
    return answers


def _reply(completion: Completion) -> Reply | Failure:
    if completion.error:
        return Failure(completion.error)
    return Reply(completion.text, completion.finish_reason == "length")
