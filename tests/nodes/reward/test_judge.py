"""`reward.judge`: params, parsing of scores, dry runs, and judges that are policies of the graph."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixture_types import MakeRollouts
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from genrl_graph import load, play
from genrl_graph.contract.node import Place
from genrl_graph.contract.policy import Completion, Randomness, Sampling
from genrl_graph.contract.resources import Log
from genrl_graph.edge_types.task import Task, TaskBook
from genrl_graph.errors import GraphError, ParamError
from genrl_graph.nodes.endpoint.client import Reply
from genrl_graph.nodes.policy.compute.handle import CausalPolicy
from genrl_graph.nodes.policy.tiny_lm import TinyLM
from genrl_graph.nodes.reward.judge import Judge
from genrl_graph.nodes.reward.llm_judge import judge_replies
from genrl_graph.nodes.reward.llm_judge.judge_prompt import ask
from genrl_graph.nodes.reward.llm_judge.judge_replies import PATTERN, MemoryReplies, read_scores
from genrl_graph.nodes.source.list import ListSource
from genrl_graph.nodes.worker.worker import Failure
from genrl_graph.store.run_store import RunStore

HERE: dict[str, Any] = {"endpoint": "http://127.0.0.1:9/v1", "model": "m"}


def score(text: str, *, truncated: bool = False, scale: tuple[float, float] = (1.0, 10.0)) -> float | None:
    (read,) = read_scores([Reply(text, truncated)], pattern=PATTERN, scale=scale, node="judge")
    return None if isinstance(read, Failure) else read


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Score: 10", 1.0),
        ("score : 1", 0.0),
        ("**Score:** 5.5", 0.5),
        ("Score: **5.5**/10", 0.5),
        ("Score: <10>.", 1.0),
        ("Score: 1\nScore: 10", 1.0),
        ("Score: 1e1", 1.0),
        ("Scores are hard. 10", None),
        ("Score: ten", None),
        ("Score: -1", None),
        ("Score: 10.5", None),
        ("Score: 5,5", None),
        ("Score: 1_0", None),
        ("Score: 10\nScore: 80/100", None),
        ("Score: nan", None),
        ("", None),
    ],
)
def test_the_last_number_on_the_scale_counts(text: str, expected: float | None) -> None:
    assert score(text) == expected


@pytest.mark.parametrize(("text", "expected"), [("Score: 7", 6 / 9), ("Score: 1", None), ("Score: 7, so", None)])
def test_what_was_cut_must_end_with_its_verdict(text: str, expected: float | None) -> None:
    assert score(text, truncated=True) == expected


@given(st.text(), st.floats(-1e6, 1e6), st.floats(-1e6, 1e6), st.floats(0, 1))
def test_whatever_is_said_before_a_verdict_does_not_count(said: str, one: float, other: float, at: float) -> None:
    low, high = min(one, other), max(one, other) + 1.0
    number = min(max(low + at * (high - low), low), high)
    assert score(f"{said}\nScore: {number:.17g}", scale=(low, high)) == (number - low) / (high - low)


@given(st.text(), st.text())
def test_a_completion_stands_between_marks_that_it_cannot_hold(completion: str, answer: str) -> None:
    task = Task("tasks/0", [{"role": "user", "content": "why?"}], answer)
    text = ask(
        task, completion, system="", template="{{ mark }}{{ completion }}{{ mark }}", scale=(1, 2), where="j"
    ).text
    assert text[:12] == text[-12:] not in completion
    assert text[12:-12].replace("\u200b", "") == completion.replace("\u200b", "")


def test_memory_is_bounded() -> None:
    memory = MemoryReplies(characters=10)
    for at in range(5):
        memory.put(str(at), Reply("1234"))
    assert [memory.get(str(at)) is not None for at in range(5)] == [False, False, False, True, True]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"endpoint": "https://host/v1"}, "endpoint needs `model`"),
        ({"endpoint": "host/v1", "model": "m"}, "no base URL of an API"),
        ({"endpoint": "file:///etc/passwd", "model": "m"}, "no base URL of an API"),
        ({"endpoint": "https://me:pw@host/v1", "model": "m"}, "a URL that holds a password"),
        ({"model": "m"}, "model is for an endpoint"),
        ({"cache": "judge.sqlite"}, "cache is for an endpoint"),
        (HERE | {"api_key_env": "sk-123"}, "does not begin with JUDGE_"),
        (HERE | {"api_key_env": "AWS_SECRET_ACCESS_KEY"}, "cannot send your other secrets"),
        (HERE | {"request": {"stream": True}}, "'stream' is set by this node"),
        ({"template": "{{ task.question }}"}, "never reads completion"),
        ({"template": "{{ completion }}{{ task.answer }}"}, "reads task.answer"),
        ({"template": "{{ completion }}{{ rubric }}"}, "reads 'rubric'; it may read task, answer, completion, mark"),
        ({"template": "{% if %}"}, "is not valid Jinja"),
        ({"pattern": "[0-9]"}, "one group"),
        ({"pattern": "(([0-9]))"}, "one group"),
        ({"pattern": "("}, "no regular expression"),
        ({"scale": (10, 1)}, "worst < best"),
        ({"scale": (1, float("inf"))}, "finite"),
        ({"samples": 2}, "greedy verdicts are all alike"),
        ({"term": "a b"}, "letters, digits"),
    ],
)
def test_params_are_checked_first(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ParamError, match=re.escape(message)):
        Judge(**params)


class ScriptedJudge(CausalPolicy):
    """A tiny model that replies with `script(prompt)` and records the prompts."""

    script: Callable[[str], str]
    asked: list[str]

    def generate(
        self,
        prompts: Sequence[NDArray[np.int32]],
        *,
        num_generations: int,
        sampling: Sampling,
        rng: Randomness,
        max_batch_tokens: int,
    ) -> list[list[Completion]]:
        """Return the script's text `num_generations` times per prompt."""
        texts = [self.decode(prompt.tolist()) for prompt in prompts]
        self.asked += texts
        nothing = np.empty(0, np.int32), np.empty(0, np.float32)
        return [[Completion(*nothing, self.script(text), "stop")] * num_generations for text in texts]


@pytest.fixture
def scripted() -> Callable[..., ScriptedJudge]:
    def make(script: Callable[[str], str], **params: Any) -> ScriptedJudge:
        policy = TinyLM(hidden_size=16, heads=2, layers=1, **params).init("judge", seed=0)
        policy.__class__ = ScriptedJudge
        assert isinstance(policy, ScriptedJudge)
        policy.script, policy.asked = script, []
        return policy

    return make


@pytest.fixture
def tasks() -> TaskBook:
    source = ListSource(tasks=[{"question": "Capital of France?", "answer": "Paris"}])
    return TaskBook({"tasks": source.placed(Place("tasks"))})


def test_a_policy_is_asked_each_question_once(
    make_rollouts: MakeRollouts, tasks: TaskBook, log: Log, scripted: Callable[..., ScriptedJudge]
) -> None:
    judge = scripted(lambda prompt: "Score: 9" if "--\nParis\n--" in prompt else "Score: none")
    rows = make_rollouts(["Paris", "Lyon", "Paris", "Score: 10", "x"], finish_reason=["stop"] * 4 + ["failed"])
    scored = Judge().run(rows, judge, rng=np.random.default_rng(0), tasks=tasks, log=log)
    np.testing.assert_allclose(scored.numpy("reward_judge"), [8 / 9, np.nan, 8 / 9, np.nan, np.nan])
    assert len(judge.asked) == 3
    assert {name: log.metrics[name] for name in ("requests", "cache_hits", "unparsable")} == {
        "requests": 3,
        "cache_hits": 1,
        "unparsable": 2,
    }
    assert log.tables["failures"]["reason"][0] == "no verdict in 'Score: none'"
    Judge().run(rows, judge, rng=np.random.default_rng(0), tasks=tasks, log=log)
    assert len(judge.asked) == 6  # its weights may have changed


def test_no_completion_ends_the_turn_of_a_policy(
    make_rollouts: MakeRollouts,
    tasks: TaskBook,
    log: Log,
    scripted: Callable[..., ScriptedJudge],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    judge = scripted(lambda prompt: "Score: 1")
    rendered: list[NDArray[np.int32]] = []
    render = judge.render

    def kept(messages: Sequence[dict[str, str]]) -> NDArray[np.int32]:
        rendered.append(render(messages))
        return rendered[-1]

    monkeypatch.setattr(judge, "render", kept)
    Judge().run(make_rollouts(["<eos>Score: 10<eos>"]), judge, rng=np.random.default_rng(0), tasks=tasks, log=log)
    assert 1 not in rendered[0]  # the id of <eos>


def test_a_prompt_that_does_not_fit_is_not_judged(
    make_rollouts: MakeRollouts, tasks: TaskBook, log: Log, scripted: Callable[..., ScriptedJudge]
) -> None:
    judge = scripted(lambda prompt: "Score: 10", max_context=100)
    node = Judge(template="{{ completion }}", max_new_tokens=90)
    rows = make_rollouts(["short", "x" * 11])
    scored = node.run(rows, judge, rng=np.random.default_rng(0), tasks=tasks, log=log)
    assert np.array_equal(scored.numpy("reward"), [1.0, np.nan], equal_nan=True)
    assert log.tables["failures"]["reason"] == ["the judge's prompt has 11 tokens, but at most 10 fit"]
    with pytest.raises(ParamError, match="max_new_tokens: 512 leave no room for a prompt in the 100 tokens"):
        Judge().run(rows, judge, rng=np.random.default_rng(0), tasks=tasks, log=log)


def test_another_pattern_that_hardly_ends_costs_its_row(
    make_rollouts: MakeRollouts,
    tasks: TaskBook,
    log: Log,
    scripted: Callable[..., ScriptedJudge],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(judge_replies, "PATTERN_S", 1.0)
    judge = scripted(lambda prompt: "aa[[7]]" if prompt == "Paris" else "a" * 60)
    node = Judge(template="{{ completion }}", pattern=r"(?:a+)+\[\[([0-9])\]\]", term="rated", weight=3.0)
    scored = node.run(make_rollouts(["Paris", "Lyon"]), judge, rng=np.random.default_rng(0), tasks=tasks, log=log)
    np.testing.assert_allclose(scored.numpy("reward"), [2.0, np.nan])
    np.testing.assert_allclose(scored.numpy("reward_rated"), [2 / 3, np.nan])
    assert "within 1 s" in log.tables["failures"]["reason"][0]


def test_there_is_one_judge(
    make_rollouts: MakeRollouts, tasks: TaskBook, log: Log, scripted: Callable[..., ScriptedJudge]
) -> None:
    rows, rng = make_rollouts(["x"]), np.random.default_rng(0)
    with pytest.raises(ParamError, match=r"reward.judge: has no judge; wire a policy as input `judge`"):
        Judge().run(rows, rng=rng, tasks=tasks, log=log)
    with pytest.raises(ParamError, match="leave one of the two out"):
        Judge(**HERE).run(rows, scripted(str), rng=rng, tasks=tasks, log=log)


@pytest.mark.parametrize(
    "params",
    [
        HERE,
        HERE | {"pattern": r"\[\[([0-9])\]\]"},
        HERE | {"scale": (-1 / 3, 1e9)},
        HERE | {"api_key_env": "JUDGE_NO_SUCH_KEY"},
    ],
)
def test_dry_play_asks_nobody(make_rollouts: MakeRollouts, tasks: TaskBook, params: dict[str, Any]) -> None:
    node = Judge(**params)
    dry = node.dry()
    dry.prepare()
    rows = make_rollouts([f"c{at}" for at in range(32)])
    first, again = (dry.run(rows, rng=np.random.default_rng(0), tasks=tasks, log=Log()) for _ in range(2))
    assert set(first.values("reward")) == {0.0, 1.0} and first == again
    assert node == Judge(**params)
    with pytest.raises(ParamError, match="no attribute 'level'"):
        Judge(**HERE, template="{{ completion }}{{ task.metadata.level }}").dry().run(
            rows, rng=np.random.default_rng(0), tasks=tasks, log=Log()
        )


GAME = """
graph: judged
version: 1
carry:
  policy: {type: policy.tiny_lm, params: {hidden_size: 16, heads: 2, layers: 1}, next: update}
  judge: {type: policy.tiny_lm, params: {alphabet: "0123456789", hidden_size: 16, heads: 2, layers: 1}}
nodes:
  tasks: {type: source.list, params: {tasks: [{question: "1+1="}, {question: "Say hi"}]}}
  answer:
    type: generate.answer
    inputs: {tasks: tasks, policy: policy}
    params: {num_generations: 4, max_new_tokens: 3, max_batch_tokens: 4096}
  score:
    type: reward.judge
    inputs: {rollouts: answer, judge: judge}
    params: {pattern: "([0-9])", scale: [0, 9], max_new_tokens: 1, temperature: 1.0, samples: 4}
  credit: {type: advantage.group, inputs: {scored: score}}
  update: {type: update.grpo, inputs: {policy: policy, credited: [credit]}}
run: {rounds: 2}
"""


def test_a_game_with_a_frozen_policy_as_judge(tmp_path: Path) -> None:
    path = tmp_path / "game.yaml"
    path.write_text(GAME)
    runs = [play(load(path), out=tmp_path / name, quiet=True) for name in ("one", "two")]
    for run in runs:
        assert run.before["peer0000", "judge"] == run.after["peer0000", "judge"]
        assert run.before["peer0000", "policy"] != run.after["peer0000", "policy"]
    first, second = (RunStore.open(run.folder) for run in runs)
    assert first.table("score").equals(second.table("score"))
    written: dict[str, list[float]] = {}
    for row in first.table("score/verdicts").to_pylist():
        written.setdefault(row["id"], []).append(int(row["verdict"]) / 9 if row["verdict"] else np.nan)
    assert len(written) == 16 and {len(scores) for scores in written.values()} == {4}
    for row in first.table("score").to_pylist():
        np.testing.assert_allclose(row["reward"], np.nanmean(written[row["id"]]))


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (", judge: judge}", "}", "nodes.score: has no judge"),
        (
            "{pattern",
            '{endpoint: "http://h/v1", model: m, pattern',
            "nodes.score: has a policy as `judge` and an endpoint",
        ),
        ("judge: judge}", "judge: update}", "cycle"),
        ("judge: judge}", "judge: answer}", "wants TextPolicy"),
    ],
)
def test_a_game_with_another_judge_is_refused(tmp_path: Path, before: str, after: str, message: str) -> None:
    path = tmp_path / "game.yaml"
    path.write_text(GAME.replace(before, after))
    with pytest.raises(GraphError, match=re.escape(message)):
        load(path)


def test_a_policy_may_judge_itself_before_its_update(tmp_path: Path) -> None:
    path = tmp_path / "game.yaml"
    path.write_text(GAME.replace("judge: judge}", "judge: policy}").replace("max_new_tokens: 1", "max_new_tokens: 40"))
    play(load(path), out=tmp_path / "run", rounds=1, quiet=True)
