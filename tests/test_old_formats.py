"""Files of version 0.1 open, replay and go on: `tests/data/v0_1/make.py` says what there is and how it was made.

Where a later change means that something old is refused, the test of it becomes one of the one line that says why; the
files stay as they are. A later version adds a folder of its own.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from genrl_graph import Rollouts, load, open_run
from genrl_graph.cli import run_command
from genrl_graph.contract import registry
from genrl_graph.dag.fingerprint import full_fingerprint
from genrl_graph.dag.schedule import compile_graph
from genrl_graph.edge_types.trajectories import Trajectories
from genrl_graph.errors import GraphError, StoreError
from genrl_graph.nodes.worker.worker_pool import shared_pool
from genrl_graph.records.stored_run import StoredRun
from genrl_graph.records.verify import verify_run
from genrl_graph.runners.loop.peers import make_peers
from genrl_graph.store.journal_format import MAGIC

# version 0.1 wrote input names that have been renamed since; they load, and say so
pytestmark = pytest.mark.filterwarnings("ignore:.* is called .* now:FutureWarning")

OLD = Path(__file__).parent / "data" / "v0_1"
EXPECTED: dict[str, dict[str, Any]] = json.loads((OLD / "expected.json").read_text())
RUNS = {"finished": [0, 1], "interrupted": [0], "game": [0, 1]}
"""The runs, and the rounds that each has played to the end."""

GENERATOR = {"finished": "answer", "interrupted": "answer", "game": "play"}
Lines = Callable[..., tuple[int, list[str], list[str]]]


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A copy of the folder, as a clone has it: its data paths hold, and empty folders are missing."""
    for path in OLD.rglob("*"):
        if path.is_file():
            copy = tmp_path / "v0_1" / path.relative_to(OLD)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
    return tmp_path / "v0_1"


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Lines:
    """Runs a command; gives its exit code and the lines of its stdout and stderr."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(*args: object) -> tuple[int, list[str], list[str]]:
        capsys.readouterr()
        code = run_command([str(arg) for arg in args])
        printed = capsys.readouterr()
        return code, printed.out.splitlines(), printed.err.splitlines()

    return run


@pytest.fixture(scope="module", autouse=True)
def workers_end() -> Iterator[None]:
    """Worker processes of rewards do not outlive the tests."""
    yield
    shared_pool.cache_clear()


def stored_digests(run: StoredRun) -> list[tuple[object, ...]]:
    """Every committed step with the hash of what it committed."""
    return [tuple(step[name] for name in ("round", "node", "holder", "digest")) for step in run.steps().to_pylist()]


def test_the_files_are_small_and_name_no_machine() -> None:
    for name in RUNS:
        assert sum(path.stat().st_size for path in (OLD / name).rglob("*") if path.is_file()) < 250_000, name
        assert "path: /" not in (OLD / name / "graph.yaml").read_text()


@pytest.mark.parametrize("name", RUNS)
def test_a_run_opens_and_every_command_reads_it(name: str, old: Path, lines: Lines, tmp_path: Path) -> None:
    folder = old / name
    assert verify_run(folder).problems == []
    run = open_run(folder)
    assert run.rounds == RUNS[name]
    assert run.metrics().num_rows == len(RUNS[name]) * len(run.peers)
    rows = run.frame(GENERATOR[name], 0)
    assert type(rows) is (Trajectories if name == "game" else Rollouts) and len(rows)
    some = rows.values("id")[0]
    for command, shown in {
        ("store", "verify", folder): f"{folder}: ok: ",
        ("runs", folder): f"{name}: graph {run.graph.name}",
        ("runs", old): name,
        ("rollouts", folder, "--round", "0"): " rollouts",
        ("lineage", folder, some): some[:8],
        ("draw", "--run", folder): f"{name}: mean of {len(RUNS[name])} round",
        ("draw", "--run", folder, "--round", "0", "-o", tmp_path / "run.svg"): "",
        ("rows", folder, GENERATOR[name], "-o", tmp_path / "rows.parquet"): " rows",
    }.items():
        code, out, err = lines(*command)
        assert (code, err) == (0, []), command
        assert shown in "\n".join(out), command


@pytest.mark.parametrize("name", ["finished", "interrupted"])
def test_a_policy_is_exported(name: str, old: Path, lines: Lines) -> None:
    assert lines("export", old / name, "policy", old / "exported") == (0, [str(old / "exported")], [])
    weights = (old / "exported" / "model.safetensors").read_bytes()
    (checkpoint,) = (old / name / "checkpoints").iterdir()
    assert weights == (checkpoint / "peer0000" / "policy" / "model.safetensors").read_bytes()


def test_what_was_refused_evaluated_and_noted_is_read() -> None:
    run = open_run(OLD / "finished")
    refusals = run.table("answers/refusals").to_pylist()
    assert [(row["round"], row["holder"], row["peer"], row["rule"]) for row in refusals] == [
        (number, "peer0000", "peer0001", "peer") for number in RUNS["finished"]
    ]
    facts = run.facts("answers", 1)
    assert facts["peer0000"]["peers"] == {"peer0000": 8, "peer0001": 7}
    assert facts["peer0001"]["metrics"]["refused"] == 0
    evaluated = run.evaluations()
    assert sorted(set(evaluated.column("round").to_pylist())) == [0, 2]
    assert len(run.frame("eval/answer")) == 4
    credited = run.frame("credit_critique")
    assert np.isfinite(credited.numpy("advantage")).all() and len(credited) == 32


def test_a_game_keeps_its_steps() -> None:
    run = open_run(OLD / "game")
    steps = run.frame("credit")
    assert isinstance(steps, Trajectories)
    assert steps.numpy("observation").shape[1:] == (3, 3, 2)
    assert steps.values("id") == run.frame("play").values("id")
    assert set(steps.values("finish_reason")) == {"", "terminated"}


@pytest.mark.parametrize("name", ["finished", "interrupted"])
def test_an_edited_reward_is_replayed_and_trained_on(name: str, old: Path, lines: Lines) -> None:
    folder, new = old / name, old / "new"
    edit = "nodes.score_answer.params.match=2.5"
    code, _, err = lines("replay", folder, folder / "graph.yaml", edit, "-o", new, "--update", "-q")
    assert (code, err) == (0, [])
    run, replayed = open_run(folder), open_run(new)
    assert replayed.rounds == RUNS[name]
    before, after = (of.frame("score_answer", range(len(RUNS[name]))) for of in (run, replayed))
    assert before.numpy("reward").any()
    assert after.numpy("reward") == pytest.approx(2.5 * before.numpy("reward"))
    assert after.values("id") == before.values("id")
    assert replayed.table("score_critique").equals(run.table("score_critique", range(len(RUNS[name]))))
    assert replayed.metrics().column("update/version").to_pylist() == [n + 1 for n in RUNS[name] for _ in run.peers]


def test_a_game_is_replayed_and_trained_on(old: Path, lines: Lines) -> None:
    folder, new = old / "game", old / "new"
    edits = ["nodes.update.params.learning_rate=1e-2", "--update", "--recompute", "credit"]
    code, _, err = lines("replay", folder, folder / "graph.yaml", *edits, "-o", new, "-q")
    assert (code, err) == (0, [])
    run, replayed = open_run(folder), open_run(new)
    assert replayed.rounds == RUNS["game"]
    advantages = [of.frame("credit").numpy("advantage") for of in (run, replayed)]
    assert advantages[0].any()
    assert advantages[1] == pytest.approx(advantages[0])
    assert min(replayed.metrics().column("update/version").to_pylist()) > 0


@pytest.mark.parametrize("name", RUNS)
def test_a_run_goes_on(name: str, old: Path, lines: Lines) -> None:
    """No update is applied again, so no bit depends on the processor that made the run; what was committed stays."""
    folder = old / name
    before = stored_digests(open_run(folder))
    code, _, err = lines("resume", folder, "run.rounds=3", "-q")
    assert (code, err) == (0, [])
    run = open_run(folder)
    assert run.rounds == [0, 1, 2]
    assert stored_digests(run)[: len(before)] == before
    assert sorted(set(run.metrics().column("round").to_pylist())) == [0, 1, 2]
    assert verify_run(folder).problems == []
    columns = [run.table(GENERATOR[name], number).column_names for number in run.rounds]
    assert "finish_reason" in columns[0] and columns[0] == columns[1] == columns[2]  # called `finish` in this folder
    code, out, err = lines("resume", folder)
    assert (code, out) == (0, [])
    assert err == [f"{folder}: complete after 3 rounds; raise run.rounds to go on"]


def test_another_game_does_not_go_on_in_an_old_folder(old: Path, lines: Lines) -> None:
    code, out, err = lines("resume", old / "finished", "run.rounds=3", "nodes.answer.params.temperature=0.5", "-q")
    assert (code, out) == (GraphError.exit_code, [])
    assert "ran another game" in err[0]
    assert "answer: temperature 1.0 (default) -> 0.5" in "\n".join(err)


@pytest.mark.parametrize("name", RUNS)
def test_carries_start_as_they_did(name: str) -> None:
    """Text policies are drawn by numpy's streams; a network's weights are orthogonal by LAPACK, whose bits may vary."""
    run = open_run(OLD / name)
    schedule = compile_graph(run.graph)
    (player, *_) = make_peers(schedule, ["peer0000"], seed=run.graph.run.seed)
    known = {carry: digest for carry, digest in run.versions["carries"].items() if (name, carry) != ("game", "policy")}
    assert {carry: player.carries[carry].digest() for carry in known} == known


@pytest.mark.parametrize("folder", ["graphs", "dumped"])
@pytest.mark.parametrize("name", EXPECTED)
def test_a_graph_file_is_the_game_that_it_was(folder: str, name: str, lines: Lines) -> None:
    """Edges are compared without the names of sockets, which a later version may call by other names."""
    code, out, err = lines("check", OLD / folder / name)
    assert (code, len(out)) == (0, 1) and all(" is called " in line for line in err), err
    graph, expected = load(OLD / folder / name), EXPECTED[name]
    assert {carry: part.next for carry, part in graph.carries.items()} == expected["next"]
    edges = {node: [[edge.key, edge.ref] for edge in part.edges()] for node, part in graph.nodes.items()}
    assert list(edges.items()) == list(expected["edges"].items())
    schedule = compile_graph(graph)
    assert schedule.stages == expected["stages"]
    assert [[str(step), step.stage, list(step.reads.values())] for step in schedule.steps] == expected["steps"]


@pytest.mark.parametrize("name", EXPECTED)
def test_params_that_a_file_leaves_out_are_what_they_were(name: str) -> None:
    graph, then = load(OLD / "graphs" / name), load(OLD / "spelled_out" / name)
    assert graph.run == then.run
    for part in (*then.carries.values(), *then.nodes.values()):
        found = graph.part(part.name)
        assert found.declared == part.declared, (
            f"{part.name} ({part.type_name}) is {found.declared!r}, but was {part.declared!r}: a default has changed, "
            "so files of 0.1 play another game. Keep the default; or, if the change is meant, say it where changes are "
            f"listed and write the new value to {OLD.name}/spelled_out/{name}."
        )
    assert graph == then
    assert load(OLD / "dumped" / name) == graph


@pytest.mark.parametrize("name", EXPECTED)
def test_fingerprints_are_those_that_0_1_gave(name: str) -> None:
    graph, expected = load(OLD / "graphs" / name), EXPECTED[name]
    found = {"protocol": compile_graph(graph).protocol, "full": full_fingerprint(graph)}
    for what, consequence in {
        "protocol": "peers of 0.1 cannot meet those of now in a swarm, and ids of equal rollouts differ",
        "full": "folders of 0.1 note another fingerprint than a new run of the same graph",
    }.items():
        assert found[what] == expected[what], (
            f"the {what} fingerprint of graphs/{name} is {found[what]}, but 0.1 gave {expected[what]}: {consequence}. "
            f"If that is meant, write the new one to {OLD.name}/expected.json, and say it where changes are listed."
        )


def replace(path: Path, then: bytes, now: bytes) -> None:
    """Change the only such place of a file, or the first of a journal."""
    data = path.read_bytes()
    assert data.count(then) == 1 or path.suffix == ".wal"
    path.write_bytes(data.replace(then, now, 1))


JOURNAL = MAGIC + (2).to_bytes(2, "little"), MAGIC + (3).to_bytes(2, "little")
OTHER_FORMATS = {
    "graph": ("finished", "graph.yaml", (b"\nversion: 1", b"\nversion: 2"), "version"),
    "newer layout": (
        "finished",
        "rollouts.zarr/zarr.json",
        (b'"layout": 2', b'"layout": 4'),
        "layout 4 is newer than 3; upgrade genrl-graph",
    ),
    "older layout": (
        "finished",
        "rollouts.zarr/zarr.json",
        (b'"layout": 2', b'"layout": 1'),
        "layout 1 is older than 2; open it with the version of genrl-graph that wrote it",
    ),
    "schema": (
        "finished",
        "rollouts.zarr/answer/zarr.json",
        (b'"schema_version": 1', b'"schema_version": 2'),
        "schema version 2 is newer than 1; upgrade genrl-graph",
    ),
    "journal": (
        "interrupted",
        "journal/00000020.wal",
        JOURNAL,
        "journal version 3 is newer than 2; upgrade genrl-graph",
    ),
}


@pytest.mark.parametrize("what", OTHER_FORMATS)
def test_a_run_of_another_format_is_refused_in_one_line(what: str, old: Path, lines: Lines) -> None:
    name, file, change, told = OTHER_FORMATS[what]
    folder = old / name
    replace(folder / file, *change)
    graph = OLD / name / "graph.yaml"
    commands: Sequence[tuple[object, ...]] = (
        ("rollouts", folder),
        ("rows", folder, "answer", "-o", old / "rows.jsonl"),
        ("resume", folder, "run.rounds=3", "-q"),
        ("replay", folder, graph, "--recompute", "all", "-o", old / "new", "-q"),
    )
    for command in commands:
        code, out, err = lines(*command)
        assert code in (StoreError.exit_code, GraphError.exit_code), command
        assert (out, len(err)) == ([], 1), command
        assert told in err[0] and str(folder) in err[0], command
    assert not (old / "new").exists() and not (old / "rows.jsonl").exists()
    code, out, err = lines("store", "verify", folder)
    assert code == StoreError.exit_code
    assert told in (out + err)[0]


def test_a_graph_of_a_newer_version_is_refused_in_one_line(old: Path, lines: Lines) -> None:
    path = old / "graphs" / "tiny_multistage.yaml"
    replace(path, b"\nversion: 1", b"\nversion: 2")
    code, out, err = lines("run", path, "-o", old / "new")
    assert (code, out, len(err)) == (GraphError.exit_code, [], 1)
    assert f"{path}:4:10 version: this program reads version 1, got 2" in err[0]
    assert not (old / "new").exists()


def test_a_type_that_is_gone_does_not_keep_a_run_from_being_read(old: Path, lines: Lines) -> None:
    """A plugin that is not there, or a node that a later version has dropped."""
    replace(old / "game" / "graph.yaml", b"advantage.rae", b"advantage.gone")
    assert registry.lookup("advantage.gone") is None
    run = open_run(old / "game")
    assert isinstance(run.table("play"), pa.Table)
    code, out, err = lines("resume", old / "game", "run.rounds=3", "-q")
    assert (code, out, len(err)) == (GraphError.exit_code, [], 1)
    assert "nodes.credit.type: no type named 'advantage.gone'" in err[0]
