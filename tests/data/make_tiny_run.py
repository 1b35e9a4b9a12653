"""Makes `tests/data/tiny_run` anew: two rounds of two peers of a game in three stages, as a run leaves them.

    python tests/data/make_tiny_run.py

The records stay in the journal, so that the store is one file; there is a checkpoint after the first round.
"""

import shutil
import tempfile
from pathlib import Path

from genrl_graph import load, play
from genrl_graph.records.stored_run import open_run
from genrl_graph.runners.replay.rounds import StoredRounds
from genrl_graph.store.run_folder import LOCK, read_graph
from genrl_graph.store.run_store import RunStore

HERE = Path(__file__).parent
GRAPHS = HERE.parents[1] / "graphs"
ROUNDS = 2
EDITS = [
    "carry.policy.params.hidden_size=8",
    "carry.policy.params.layers=1",
    "carry.policy.params.heads=1",
    "nodes.tasks.params.num_tasks=2",
    *(f"nodes.{name}.params.num_generations=4" for name in ("answer", "critique", "final")),
    *(f"nodes.{name}.params.max_new_tokens=3" for name in ("answer", "critique", "final")),
    "nodes.score_answer.params.pattern='^\\d'",
    "nodes.score_answer.params.compare=false",
    "nodes.score_critique.params.choice_pattern='([0-9])'",
    "nodes.score_final.params.pattern='\\d.\\d'",
    "nodes.score_final.params.compare=false",
    "nodes.update.params.learning_rate=1e-2",
    "nodes.update.params.minibatches=2",
    f"run={{rounds: {ROUNDS}, peers: 2, checkpoint_every: 1, keep: null, trackers: []}}",
]


def main() -> None:
    """Play the game, and write what it left under a name that holds on every machine."""
    out = HERE / "tiny_run"
    shutil.rmtree(out, ignore_errors=True)
    with tempfile.TemporaryDirectory() as folder:
        run = play(load(GRAPHS / "tiny_multistage.yaml", EDITS), out=Path(folder) / "run", quiet=True)
        text, versions = read_graph(run.folder)
        text = text.replace(str(GRAPHS), "../../../graphs")
        store = RunStore.create(out, text, versions)
        written = open_run(run.folder)
        stored = StoredRounds(written)
        for step in written.steps().to_pylist():
            store.commit([stored.holder_round(step["round"], step["holder"]).record(step["node"])])
        shutil.copy(run.folder / "metrics.jsonl", out)
        for number in range(1, ROUNDS):
            shutil.copytree(run.folder / "checkpoints" / f"{number:06d}", out / "checkpoints" / f"{number:06d}")
    (out / LOCK).write_text("")  # nobody writes it


if __name__ == "__main__":
    main()
