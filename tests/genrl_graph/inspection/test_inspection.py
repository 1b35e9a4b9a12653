"""The commands that print a stored run, called as a person calls them."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from toys import Centred, Draw, Moves, Numbers, Parity, Same, Step, ToyPolicy, ToyPolicyCarry, toy_game

from genrl_graph import Credited, Graph, Log, Rollouts, RunConfig, Source, Task, Tasks, Update, open_run
from genrl_graph.cli import run_command
from genrl_graph.inspection.plot import braille, smoothed
from genrl_graph.inspection.text import line
from genrl_graph.messages import escaped
from genrl_graph.runners.play import play
from genrl_graph.store.run_store import RunStore

HOSTILE = "\x1b[2J\x1b]0;owned\x07[bold red]x[/]\r\u202egnp.exe\x00\x9b31m\ud800"


class Hostile(Draw, name="look_hostile"):
    """A source of completions with terminal escape codes; its last row failed."""

    def run(  # type: ignore[override]
        self, tasks: Tasks, policy: ToyPolicy, *, rng: np.random.Generator, log: Log, round: int, peer: str
    ) -> Rollouts:
        rows = super().run(tasks, policy, rng=rng, log=log, round=round, peer=peer).rows()
        for at, row in enumerate(rows):
            row["completion"] = HOSTILE.replace("\ud800", "") + "y" * 5000
            row["messages"] = [{"role": "user", "content": f"say {HOSTILE}".replace("\ud800", "")}]
            if at == len(rows) - 1:
                row |= {"finish_reason": "failed", "error": "no room\nleft"}
        return Rollouts.from_rows(rows)


class Pictures(Source, name="look_pictures"):
    """A source of rows of an own type, with tensors."""

    def run(self, *, round: int) -> Moves:
        boards = np.arange(2 * 6, dtype=np.float32).reshape(2, 2, 3) + round
        ids, path = [self.task_id(at) for at in range(2)], [np.arange(at, dtype=np.int32) for at in range(2)]
        return Moves.from_columns({"id": ids, "value": [1, 2], "path": path, "board": boards})

    def resolve(self, task_id: str) -> Task:
        return Task(task_id, [])


def hostile_game() -> Graph:
    g = Graph("hostile", run=RunConfig(rounds=1))
    policy = g.carry("policy", ToyPolicyCarry(bias=0))
    answer = g.add("answer", Hostile(), tasks=g.add("tasks", Numbers(num_tasks=1)), policy=policy)
    g.add("seen", Same(), rows=g.add("pictures", Pictures()))
    credit = g.add("credit", Centred(), scored=g.add("score", Parity(), rollouts=answer))
    g.next_round(policy=g.add("update", Step(), policy=policy, credited=[credit]))
    return g


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs: one finished with several stages, one interrupted, one with hostile text, one broken."""
    folder = tmp_path_factory.mktemp("look") / "runs"
    play(toy_game(), out=folder / "toy", rounds=6, peers=2, quiet=True)
    play(hostile_game(), out=folder / "hostile", quiet=True)
    cut = toy_game()
    RunStore.create(folder / "cut", cut.record(), {}).close()
    (folder / "broken").mkdir()
    (folder / "broken" / "graph.yaml").write_text("nothing")
    return folder


def printed(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> str:
    """Run a command and return what it prints; an error must be one line."""
    assert run_command([str(argument) for argument in arguments]) == code
    out, err = capsys.readouterr()
    assert err.count("\n") == (code != 0), err
    return err if code else out


def test_runs_are_listed_with_their_state(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with RunStore.open(runs / "cut", "a"):
        out = printed(capsys, "runs", runs)
        rows = {text.split()[0].rstrip(":"): text for text in out.splitlines() if text.strip()}
        assert "running" in rows["cut"] and "0/10" in rows["cut"]
    rewards = [f"{value:.3f}" for value in last_rewards(runs / "toy")]
    assert all(part in rows["toy"] for part in ("6/6", "finished", *rewards))
    assert "unreadable" in rows["broken"] and "1/1" in rows["hostile"]
    assert "stopped" in printed(capsys, "runs", runs / "cut")
    assert "holds no run" in printed(capsys, "runs", runs / "toy" / "events", code=12)
    assert "is no run; name one" in printed(capsys, "runs", runs, "--png", "x.png", code=3)


def test_a_broken_peer_of_a_run_is_named_with_its_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, graph in (("alice", None), ("bob", "nothing"), ("carol", "graph: [")):
        play(toy_game(), out=tmp_path / "runs/swarm" / name, rounds=1, quiet=True)
        if graph is not None:
            (tmp_path / "runs/swarm" / name / "rollouts.zarr/zarr.json").write_text(graph)
    out = printed(capsys, "runs", tmp_path / "runs")
    assert "3 runs" in out and "unreadable" in out and "bob" in out, out
    assert "bob" in printed(capsys, "rollouts", tmp_path / "runs/swarm", code=12)


def last_rewards(folder: Path) -> list[float]:
    run = open_run(folder)
    tops = ("score_answer", "match_final")
    return [float(np.mean([run.frame(n, 5, holder=p).numpy("reward").mean() for p in run.peers])) for n in tops]


def test_one_run_is_shown_with_curves_and_a_picture(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    png = tmp_path / "curves.png"
    out = printed(capsys, "runs", runs / "toy", "--png", png, "--smooth", 2)
    assert "toy: graph toy, finished, 6 of 6 rounds played" in out
    assert "match_final" in out and "stage1/reward  rounds 0 to 5, mean of 2 rounds" in out
    assert sum("┤" in text for text in out.splitlines()) == 10
    start = out.splitlines().index(next(text for text in out.splitlines() if text.lstrip().startswith("node ")))
    assert max(map(len, out.splitlines()[start:])) <= 80, "tables fit a terminal, also in a pipe"
    assert png.read_bytes().startswith(b"\x89PNG")


class Uneven(Update, name="look_uneven"):
    """Takes one step, and a second one at one of the peers."""

    def run(self, policy: ToyPolicy, credited: list[Credited[Rollouts]], *, peer: str) -> ToyPolicy:
        policy.version += 2 if peer == "peer0001" else 1
        return policy


def test_versions_of_peers_are_listed_and_never_averaged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    g = Graph("uneven", run=RunConfig(rounds=3, peers=2))
    policy = g.carry("policy", ToyPolicyCarry(bias=0))
    answer = g.add("answer", Draw(), tasks=g.add("tasks", Numbers()), policy=policy)
    credit = g.add("credit", Centred(), scored=g.add("score", Parity(), rollouts=answer))
    g.next_round(policy=g.add("update", Uneven(), policy=policy, credited=[credit]))
    play(g, out=tmp_path / "run", quiet=True)
    run_command(["runs", str(tmp_path / "run")])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.lstrip().startswith("update")]
    assert any("3, 6" in row for row in rows) and not any("4.5" in row for row in rows)


def test_a_curve_rises_where_its_values_do() -> None:
    lines = braille((range(100), np.linspace(0, 1, 100).tolist()), width=40, height=4)
    starts = [len(text) - len(text.split("┤")[1].replace("\u2800", " ").lstrip()) for text in lines]
    assert starts == sorted(starts, reverse=True) and max(map(len, lines)) <= 40
    assert lines[0].startswith("1.000") and lines[-1].startswith("0.000")
    assert braille(([], []), width=40) == [] and len(braille(([3], [1.0]), width=40)) == 5
    gaps = smoothed([np.nan, 1.0, 3.0, np.nan, 5.0], 2)
    np.testing.assert_array_equal(gaps, [np.nan, 1.0, 2.0, 3.0, 5.0])


def test_rollouts_are_transcripts(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = open_run(runs / "toy").frame("match_final", 4)
    best = rows.rows()[int(np.argmax(rows.numpy("reward")))]
    out = printed(capsys, "rollouts", runs / "toy", "--round", 4, "--node", "final", "--top", 1)
    assert best["completion"] in out and f"task {best['task_id']}" in out
    assert f"reward {best['reward']:.3f} (even {best['reward_even']:.3f}, short" in out and "match" in out
    assert best["messages"][0]["content"] in out and "1 of 24 rollouts" in out
    assert all(parent[:10] in out for parent in best["parent_ids"])
    worst = printed(capsys, "rollouts", runs / "toy", "--round", 4, "--node", "final", "--worst", 2)
    assert worst.count("reward 0.000") == 2
    task = printed(capsys, "rollouts", runs / "toy", "--task", best["task_id"], "--limit", 99, "--peer", "peer0001")
    heads = [text for text in task.splitlines() if text.startswith("--- ")]
    assert len(heads) == 6 and all("peer0001" in text for text in heads)
    assert "did you mean 'final'?" in printed(capsys, "rollouts", runs / "toy", "--node", "fina", code=3)
    assert "no peer named 'peer2'" in printed(capsys, "rollouts", runs / "toy", "--peer", "peer2", code=3)
    assert "0 of 0 rollouts" in printed(capsys, "rollouts", runs / "cut")


def test_hostile_text_is_shown_and_not_obeyed(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = printed(capsys, "rollouts", runs / "hostile", "--limit", 1)
    assert not set(out) & {"\x1b", "\x07", "\r", "\x00", "\x9b", "\u202e"}
    assert "\\x1b[2J\\x1b]0;owned\\x07[bold red]x[/]\\r\\u202egnp.exe\\x00\\x9b31m" in out
    assert "--full shows all" in out and "y" * 5000 not in out
    assert "y" * 5000 in printed(capsys, "rollouts", runs / "hostile", "--full")
    failed = printed(capsys, "rollouts", runs / "hostile", "--failed")
    assert "error: no room" in failed and "1 of 1 rollouts" in failed
    start = failed.split("peer0000  ")[1][:10]
    assert "\x1b" not in printed(capsys, "lineage", runs / "hostile", start)
    assert escaped(HOSTILE).isprintable() and line("a\nb\tc") == "a\\nb\\tc"


def test_a_lineage_leads_to_the_task_and_to_the_update(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = open_run(runs / "toy")
    final = run.frame("credit_final", 3, holder="peer0001").rows()[0]
    out = printed(capsys, "lineage", runs / "toy", final["id"][:12])
    task, first, second, third, *rest = out.splitlines()
    (answer,) = (row for row in run.frame("answer", 3).rows() if row["id"] in final["parent_ids"][:1])
    assert task == f"task {final['task_id']}: {answer['messages'][-1]['content']}"
    assert first.startswith(final["id"][:10]) and "policy version 3" in first
    assert f"reward {final['reward']:.3f}" in second and "seed (0, 3, final, peer0001), sample" in third
    assert max(map(len, out.splitlines()[1:])) <= 80, "it fits a terminal, also in a pipe"
    quoted = [text for text in rest if any(parent[:10] in text for parent in final["parent_ids"])]
    assert len(quoted) == len(final["parent_ids"]) == 4 and {"peer0000", "peer0001"} == {
        text.split("round 3  ")[1].split()[0] for text in quoted
    }
    assert "trained on by update  round 3  peer0001" in out and "quoted by no rollout" in out
    children = printed(capsys, "lineage", runs / "toy", final["parent_ids"][0])
    assert "quoted by 8 rollouts" in children and final["id"][:10] in children
    assert "no rollout 'zz'" in printed(capsys, "lineage", runs / "toy", "zz", code=3)
    assert "start with" in printed(capsys, "lineage", runs / "toy", final["id"][:1], code=3)


@pytest.mark.parametrize("name", ["rows.parquet", "rows.jsonl", "folder"])
def test_rows_are_what_other_tools_read(
    runs: Path, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / name
    frame = open_run(runs / "toy").frame("credit_final", range(2, 4))
    output = printed(capsys, "rows", runs / "toy", "credit_final", "-o", out, "--rounds", "2:4")
    assert output == f"{out}: {len(frame)} rows\n"
    if name == "rows.jsonl":
        rows = [json.loads(text) for text in out.read_text().splitlines()]
    else:
        rows = pq.read_table(out).to_pylist()
    assert [{name: row[name] for name in frame.table.column_names} for row in rows] == frame.rows()
    assert {row["holder"] for row in rows} == {"peer0000", "peer0001"}
    assert "exists already" in printed(capsys, "rows", runs / "toy", "tasks", "-o", out, code=12)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_tensors_can_be_exported_and_rounds_that_do_not_exist_cannot(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    printed(capsys, "rows", runs / "hostile", "seen", "-o", tmp_path / "a.parquet")
    table = pq.read_table(tmp_path / "a.parquet")
    assert table["board"].to_pylist()[1] == [[6.0, 7.0, 8.0], [9.0, 10.0, 11.0]]
    assert table["round"].to_pylist() == [0, 0]
    missing = printed(
        capsys, "rows", runs / "toy", "score_answer", "-o", tmp_path / "b.parquet", "--rounds", "90:", code=3
    )
    assert "90" in missing and not (tmp_path / "b.parquet").exists()
    for wrong in ("1-3", "x", ":y"):
        args = ("rows", runs / "toy", "tasks", "-o", tmp_path / "c.parquet", "--rounds", wrong)
        assert "is no range of rounds" in printed(capsys, *args, code=3)


def test_datasets_loads_what_was_exported(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import datasets

    printed(capsys, "rows", runs / "toy", "credit_answer", "-o", tmp_path / "rows")
    cache = str(tmp_path / "cache")
    loaded = datasets.load_dataset("parquet", data_dir=str(tmp_path / "rows"), split="train", cache_dir=cache)
    frame = open_run(runs / "toy").frame("credit_answer")
    assert loaded["advantage"][:] == frame.values("advantage") and loaded["messages"][0] == frame.values("messages")[0]


@pytest.mark.parametrize("command", ["runs", "rollouts", "lineage", "rows"])
def test_looking_loads_no_framework(runs: Path, command: str, tmp_path: Path, toys_file: Path) -> None:
    first = open_run(runs / "toy").table("answer", 0)["id"][0].as_py()
    further = {"lineage": [first], "rows": ["answer", "-o", str(tmp_path / "a.jsonl"), "--import", str(toys_file)]}
    arguments = [command, str(runs / "toy"), *further.get(command, [])]
    code = "import sys; from genrl_graph.cli import run_command; assert run_command(sys.argv[1:]) == 0\n"
    code += "assert not {'torch', 'transformers', 'trl', 'datasets', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True)
