import pytest
from fixture_types import Resources

from genrl_graph import ParamError, Tasks, TextPolicy
from genrl_graph.nodes.generate.answer import Answer
from genrl_graph.nodes.reward.scoring.answers import extract_answer


def test_the_prompt_holds_the_question_and_asks_for_the_format_that_rewards_read(
    tasks: Tasks, policy: TextPolicy, resources: Resources
) -> None:
    rows = Answer(max_new_tokens=4, num_generations=2).run(tasks, policy, **resources())
    prompt = rows.values("messages")[2][-1]["content"]
    assert prompt.startswith("What is 3 times 5?\n")
    assert "####" in prompt
    assert extract_answer("So it is\n#### 15", None) == "15"
    assert "SECRET" not in str(rows.values("messages"))


def test_the_template_may_read_only_the_task() -> None:
    with pytest.raises(ParamError, match="reads 'answers'; it may read task"):
        Answer(template="{{ answers }}")
