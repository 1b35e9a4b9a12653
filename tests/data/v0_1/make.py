"""Makes the files beside it: run folders and graph files as version 0.1 writes them.

    git worktree add ../old 34140b0 && PYTHONPATH=../old OMP_NUM_THREADS=1 python tests/data/v0_1/make.py

They are the promise of `tests/test_old_formats.py` that old files open, so this is run once a version, by the code of
that version, and never to let a test pass: a later version gets a folder of its own, `tests/data/v0_2/`.

    graphs/        shipped graph files as they were, with the data file that one reads
    dumped/        what `Graph.dump` writes of each
    spelled_out/   the same with every param written, those at their default too
    expected.json  their fingerprints and schedules
    finished/      two peers, two stages, a frozen reference, an evaluation; one peer lies to the other; all in zarr
    interrupted/   the same game, ended by SIGKILL in the middle of its second round
    game/          tic-tac-toe by self-play, whose rows are `Trajectories`
"""

import json
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from genrl_graph.fingerprint import full_fingerprint
from genrl_graph.frames import Frame
from genrl_graph.graph import Part
from genrl_graph.node import Exchange, Packet
from genrl_graph.resources import TaskBook
from genrl_graph.runfolder import GRAPH
from genrl_graph.runners.admission import Admission, makers
from genrl_graph.runners.ahead import late
from genrl_graph.runners.meet import LocalSwarm, Meeting, Swarm
from genrl_graph.runners.runner import LocalRunner, Tell
from genrl_graph.runners.signals import Stop
from genrl_graph.runners.verdict import refusal_columns
from genrl_graph.schedule import Schedule, compile_graph
from genrl_graph.spec import dump

import genrl_graph.graphs
from genrl_graph import Graph, load
from genrl_graph.runners.play import play
from genrl_graph.wire import encode

HERE = Path(__file__).resolve().parent
SHIPPED = Path(genrl_graph.graphs.__file__).resolve().parent
GRAPHS = (
    "tiny_multistage.yaml",
    "quickstart.yaml",
    "multistage_math/gsm8k.yaml",
    "multistage_math/dapo.yaml",
    "games/tic_tac_toe.yaml",
    "games/tic_tac_toe_swarm.yaml",
    "swarm_sapo/sapo.yaml",
    "swarm_sapo/own_4_external_4.yaml",
)
DATA = "data/digit_sums.jsonl"

REFERENCE = "  reference:\n    type: policy.tiny_lm\n    params: {like: policy, %s}\n"
NETWORK = "alphabet: '0123456789+=:?>', hidden_size: 4, layers: 1, heads: 1, initializer_range: 0.1"
TEXT = (
    *(f"carry.policy.params.{name}=1" for name in ("layers", "heads")),
    "carry.policy.params.hidden_size=4",
    *(f"~nodes.{name}" for name in ("critiques", "final", "score_final", "credit_final")),
    "nodes.update.inputs.scored=[credit_answer,credit_critique]",
    "nodes.tasks.params.num_tasks=2",
    *(f"nodes.{name}.params.num_generations=4" for name in ("answer", "critique")),
    *(f"nodes.{name}.params.max_new_tokens=3" for name in ("answer", "critique")),
    "nodes.score_answer.params.pattern='^\\d'",
    "nodes.score_answer.params.compare=false",
    "nodes.score_critique.params.choice_pattern='([0-9])'",
    "nodes.update.params.learning_rate=1e-2",
    "nodes.update.params.beta=0.04",
    "nodes.update.inputs.reference=reference",
    "run={peers: 2, checkpoint_every: 1, keep: 1, block_rounds: 1, trackers: []}",
)
ROUNDS = 2
EVALUATED = ("run.mode=train_and_evaluate", "run.eval_tasks=1", "nodes.tasks.params.holdout=0.2")
CUT_BEFORE = 16
"""The commit that the killed process does not make: that of the critiques in the second round."""

PLAYED = (
    "carry.policy.params.hidden=[8]",
    "nodes.tasks.params.num_episodes=4",
    "nodes.remember.params.every=1",
    "nodes.remember.params.size=1",
    "nodes.update.params.minibatch_size=16",
    "run={rounds: 2, mode: train, eval_every: 0, checkpoint_every: 1, keep: 1, trackers: []}",
)


class LyingSwarm(LocalSwarm):
    """Peers of one process, of whom `peer0001` sends the others one row under a false name; they do not admit it."""

    def __init__(self, peers: Sequence[str], schedule: Schedule) -> None:
        super().__init__(peers)
        self._schedule = schedule

    def close(
        self, node: Exchange, *, round: int, peer: str, tasks: TaskBook, vocabularies: Mapping[str, int]
    ) -> Meeting:
        """Return the admitted rows of the offers, with the refusals."""
        whole = super().close(node, round=round, peer=peer, tasks=tasks, vocabularies=vocabularies)
        own = next(packet.rows for packet in whole.packets if packet.peer == peer)
        packets, refused = [], []
        for packet in whole.packets:
            if packet.peer == peer:
                packets.append(packet)
                continue
            sent = _lying(packet.rows) if packet.peer == "peer0001" else packet.rows
            admitted = Admission(node, makers(self._schedule, node.place.node)).receive(
                encode(sent), like=own, sender=packet.peer, announced=round, round=round, tasks=tasks
            )
            packets.append(Packet(packet.peer, round, admitted.rows))
            refused += admitted.refusals
        return Meeting(tuple(packets), metrics={"refused": len(refused)}, refusals=refusal_columns(refused))


class LyingRunner(LocalRunner):
    """Plays with a `LyingSwarm`."""

    def start(
        self, schedule: Schedule, *, run: Path | None, free: Callable[[], Path], stop: Stop, tell: Tell
    ) -> tuple[Path, Swarm]:
        """The folder, and the swarm."""
        folder, _ = super().start(schedule, run=run, free=free, stop=stop, tell=tell)
        return folder, LyingSwarm(self.names, schedule)


def _lying(rows: Frame) -> Frame:
    """The rows, the first of which claims to be somebody else's."""
    names = rows.table.column("peer").to_pylist()
    at = rows.table.column_names.index("peer")
    return type(rows)(rows.table.set_column(at, "peer", [["peer0000", *names[1:]]]), marks=rows.marks)


def make_graphs() -> None:
    """The files as they are shipped, what is dumped of them, and what is known of each."""
    for name in (*GRAPHS, DATA):
        (HERE / "graphs" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(SHIPPED / name, HERE / "graphs" / name)
    expected = {}
    for name in GRAPHS:
        graph = load(HERE / "graphs" / name)
        for folder, text in (("dumped", graph.dump()), ("spelled_out", dump(graph, params=_all_params))):
            path = HERE / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            up = "../" * len(path.relative_to(HERE).parent.parts)
            path.write_text(text.replace(f"{HERE}/", up))
        expected[name] = _known(graph)
    (HERE / "expected.json").write_text(_json(expected))


def _json(expected: Mapping[str, Mapping[str, Any]]) -> str:
    """JSON with a line for each fact of a graph."""
    graphs = [
        f" {json.dumps(name)}: {{\n"
        + ",\n".join(f"  {json.dumps(what)}: {json.dumps(value)}" for what, value in known.items())
        + "\n }"
        for name, known in expected.items()
    ]
    return "{\n" + ",\n".join(graphs) + "\n}\n"


def _all_params(part: Part) -> Mapping[str, Any]:
    assert part.declared is not None
    return part.declared.model_dump(mode="json")


def _known(graph: Graph) -> dict[str, Any]:
    schedule = compile_graph(graph)
    return {
        "protocol": schedule.protocol,
        "full": full_fingerprint(graph),
        "next": {name: part.next for name, part in graph.carries.items()},
        "edges": {name: [[edge.key, edge.ref] for edge in part.edges()] for name, part in graph.nodes.items()},
        "stages": schedule.stages,
        "steps": [[str(step), step.stage, list(step.reads.values())] for step in late(schedule)],  # as 0.1 played them
    }


def make_runs() -> None:
    """The three run folders; of what the killed one left nothing is mended."""
    sys.path.append(str(HERE.parents[1] / "runners"))
    from crash import killed

    file = HERE / "multistage.yaml"
    text = (HERE / "graphs/tiny_multistage.yaml").read_text().replace("path: data/", "path: graphs/data/")
    file.write_text(text.replace("nodes:\n", REFERENCE % NETWORK + "nodes:\n", 1))
    finished = load(file, [*TEXT, *EVALUATED, f"run.rounds={ROUNDS}"])
    interrupted = load(file, [*TEXT, f"run.rounds={ROUNDS + 1}"])
    file.unlink()
    play(finished, out=HERE / "finished", quiet=True, threads=1, runner=LyingRunner(2))
    assert killed(interrupted, HERE / "interrupted", CUT_BEFORE), "the run ended before it was killed"
    play(load(HERE / "graphs/games/tic_tac_toe.yaml", PLAYED), out=HERE / "game", quiet=True, threads=1)
    for run in ("finished", "interrupted", "game"):
        graph = HERE / run / GRAPH
        graph.write_text(graph.read_text().replace(f"{HERE}/", "../"))
        (HERE / run / "writer.lock").write_text("")  # nobody writes it


def main() -> None:
    """Make all anew."""
    for path in HERE.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
    make_graphs()
    make_runs()


if __name__ == "__main__":
    main()
