"""A round that teaches nothing says why, in one line, and so does the summary of the run."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genrl_graph import Graph, R, Reward, RunConfig, Scored, Select, play, score
from genrl_graph.nodes.library import Answer, GroupAdvantage, Grpo, ListSource, NonzeroAdvantage, RegexReward
from genrl_graph.nodes.policy.tiny_lm import TinyLM


class Pays(Reward, name="pays"):
    """Pays by the sample: `pattern` holds the rewards of the samples of a task, `tasks` adds one for each task."""

    pattern: tuple[float, ...] = (0.0, 1.0)
    tasks: tuple[float, ...] = (0.0, 0.0)

    def run(self, rollouts: R) -> Scored[R]:
        samples, ids = rollouts.numpy("sample"), rollouts.values("task_id")
        values = np.asarray(self.pattern)[samples % len(self.pattern)]
        return score(rollouts, {"pay": values + np.asarray([self.tasks[int(id[-1])] for id in ids])})


class Nobody(Select, name="nobody"):
    """Keeps no row."""

    def run(self, rows: R) -> R:
        return rows.take([])


def game(
    *,
    pays: Pays | None = None,
    select: Select | None = None,
    limit: int | None = None,
    share: float = 0.5,
    **update: object,
) -> Graph:
    graph = Graph("stalls", run=RunConfig(rounds=1, max_failed_share=share))
    policy = graph.carry("policy", TinyLM())
    tasks = graph.add("tasks", ListSource(tasks=[{"question": "ab"}, {"question": "cd"}]))
    node = Answer(template="{{ task.question }}", num_generations=4, max_new_tokens=2, max_prompt_tokens=limit)
    scored = graph.add("score", pays or Pays(), rollouts=graph.add("answer", node, tasks=tasks, policy=policy))
    rows = graph.add("credit", GroupAdvantage(), scored=scored)
    if select is not None:
        rows = graph.add("kept", select, rows=rows)
    reference = graph.carry("reference", TinyLM(initializer_range=0.1)) if "beta" in update else None
    grpo = Grpo(**{"learning_rate": 1e-2, **update})
    trained = graph.add("update", grpo, policy=policy, credited=[rows], reference=reference)
    graph.next_round(policy=trained)
    return graph


def told(text: str, start: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(start)]


NAN = float("nan")
WRONG, RIGHT, ALIKE = (Pays(pattern=(value,)) for value in (0.0, 1.0, 0.5))
FEW = Pays(pattern=(1.0, NAN, NAN, NAN))
EACH = Pays(pattern=(0.0,), tasks=(0.25, 1.0))


@pytest.mark.parametrize(
    ("graph", "line"),
    [
        (game(pays=WRONG), "the weights did not change, because every reward is 0 (all wrong); try easier tasks, "),
        (game(pays=RIGHT), "the weights did not change, because every reward is 1 (all right); try harder tasks"),
        (game(pays=ALIKE), "because every reward is 0.5 (all alike); try a reward that tells completions apart"),
        (game(pays=EACH), "in each of 2 groups all rewards are equal, from 0.25 to 1; try a larger num_generations, "),
        (game(pays=WRONG, select=NonzeroAdvantage()), "because every reward is 0 (all wrong); "),
        (game(select=Nobody()), "the weights did not change, because the select 'kept' kept none of the rows; try a "),
        (
            game(pays=Pays(pattern=(1.0, NAN, NAN, NAN)), share=1.0),
            "because few rows were judged: 6 of 8 rows could not",
        ),
        (game(learning_rate=1e-30), "the optimiser steps are too small for the weights (learning_rate 1e-30); try a "),
    ],
    ids=["wrong", "right", "alike", "each", "filtered", "none kept", "few judged", "too small"],
)
def test_the_line_names_the_step_at_which_nothing_was_left(
    graph: Graph, line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = play(graph, out=tmp_path / "run")
    shown = capsys.readouterr().err
    (first,) = told(shown, "round 1: ")
    assert line in first
    (summary,) = told(shown, "nothing was learned")
    assert summary == f"nothing was learned in 1 of 1 round; the last because {first.partition('because ')[2]}"
    assert json.loads((run.folder / "metrics.jsonl").read_text())["stalled/unchanged"] == 1
    assert run.before == run.after


def test_groups_without_variance_are_told_where_something_else_moves_the_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = play(game(pays=RIGHT, beta=0.1), out=tmp_path / "run")
    assert run.before != run.after
    (line,) = told(capsys.readouterr().err, "round 1: ")
    assert line == "round 1: no group of rewards varies, because every reward is 1 (all right); try harder tasks"
    metrics = json.loads((run.folder / "metrics.jsonl").read_text())
    assert (metrics["stalled/no_variance"], metrics["stalled/unchanged"]) == (1, 0)


def test_a_rate_that_has_decayed_to_nothing_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    play(game(decay="linear", decay_steps=1), out=tmp_path / "run", rounds=3)
    shown = capsys.readouterr().err
    (line,) = told(shown, "round 2: the weights did not change, because ")
    assert line.endswith("because the learning rate is 0; try a later end of its decay (decay_steps)")
    assert not told(shown, "round 1: ")
    (summary,) = told(shown, "nothing was learned")
    assert summary.startswith("nothing was learned in 2 of 3 rounds; the last because the learning rate is 0")


def test_a_stall_that_goes_on_is_told_every_ten_rounds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = play(game(pays=WRONG), out=tmp_path / "run", rounds=21)
    shown = capsys.readouterr().err
    assert len(told(shown, "round 1: ")) == 1
    (tenth, twentieth) = (line for line in shown.splitlines() if "rounds in a row" in line)
    assert tenth.startswith(
        "10 rounds in a row, up to round 10: the weights did not change, because every reward is 0 "
    )
    assert twentieth.startswith("20 rounds in a row, up to round 20: ")
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["stalled/no_variance"] for line in lines] == list(range(1, 22))


def test_a_run_that_learns_or_waits_for_its_round_says_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, graph in (("learns", game()), ("waits", game(every=3))):
        play(graph, out=tmp_path / name, rounds=3)
        shown = capsys.readouterr().err
        assert not told(shown, "nothing was learned"), name
        assert not [line for line in shown.splitlines() if "did not change" in line or "varies, because" in line], name


def shared_game(limit: float) -> Graph:
    """Two roles of one policy; the second samples four times as many rows."""
    graph = Graph("shared", run=RunConfig(rounds=3, trackers=()))
    policy = graph.carry("policy", TinyLM())
    tasks = graph.add("tasks", ListSource(tasks=[{"question": "ab"}, {"question": "cd"}]))
    rows = []
    for name, samples in (("few", 2), ("many", 8)):
        node = Answer(template="{{ task.question }}", num_generations=samples, max_new_tokens=2)
        answer = graph.add(name, node, tasks=tasks, policy=policy)
        rows.append(
            graph.add(f"{name}_credit", GroupAdvantage(), scored=graph.add(f"{name}_score", Pays(), rollouts=answer))
        )
    grpo = Grpo(learning_rate=1e-3, max_gradient_share=limit)
    graph.next_round(policy=graph.add("update", grpo, policy=policy, credited=rows))
    return graph


def test_a_role_that_takes_a_policy_over_is_told_once_in_ten_rounds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = play(shared_game(0.6), out=tmp_path / "run")
    share = json.loads((run.folder / "metrics.jsonl").read_text().splitlines()[0])["update/many/gradient_share"]
    assert told(capsys.readouterr().err, "round 1: nodes.update") == [
        f"round 1: nodes.update: {share:.0%} of the gradient is that of many, which takes the policy over from 1 other "
        "role (max_gradient_share 0.6); give it a policy of its own, or fewer rows"
    ]


def test_a_role_within_its_limit_is_not_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    play(shared_game(1.0), out=tmp_path / "run")
    assert "takes the policy over" not in capsys.readouterr().err


class Rounded(Select, name="rounded_logprobs"):
    """Stands for a sampler of low precision: rounds the log-probs of rows to whole nats."""

    def run(self, rows: R) -> R:
        rounded = [np.round(row).astype(np.float32) for row in rows.ragged("logprobs")]
        columns = {name: rows.table.column(name) for name in rows.table.column_names}
        return type(rows).from_columns(columns | {"logprobs": rounded}, marks=rows.marks)


@pytest.mark.parametrize(
    ("correction", "advice"),
    [("none", "set importance_correction, or compute both in float32"), ("tis", "compute both in one precision")],
)
def test_a_gap_between_sampler_and_trainer_is_told_once_in_ten_rounds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], correction: Any, advice: str
) -> None:
    g = Graph("gap", run=RunConfig(rounds=3))
    policy = g.carry("policy", TinyLM(alphabet="0123456789+=", hidden_size=16, heads=2, initializer_range=0.3))
    tasks = g.add("tasks", ListSource(tasks=[{"question": "1+1=", "answer": "2"}]))
    speaker = Answer(template="{{ task.question }}", num_generations=8, max_new_tokens=4)
    rounded = g.add("rounded", Rounded(), rows=g.add("answer", speaker, tasks=tasks, policy=policy))
    credit = g.add("credit", GroupAdvantage(), scored=g.add("score", RegexReward(pattern="[0-4]"), rollouts=rounded))
    update = Grpo(learning_rate=1e-4, importance_correction=correction)
    g.next_round(policy=g.add("update", update, policy=policy, credited=[credit]))
    play(g, out=tmp_path / "run")
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "of sampler and trainer differ" in line]
    first = json.loads((tmp_path / "run/metrics.jsonl").read_text().splitlines()[0])
    gap, size = first["update/log_ratio_mean"], first["update/effective_sample_size"]
    assert line == (
        f"round 1: nodes.update: the log-probs of sampler and trainer differ by {gap:.2g} nats a token "
        f"(max_log_ratio 0.1), effective sample size {size:.0%}; {advice}"
    )
