"""The worth of importance corrections in a game whose sampler is off: five sizes of noise, five seeds, as found.

    python tests/nodes/update/steps/correction_game.py [--seeds 5] [--rounds 32] [--out FOLDER]

The sampler is a copy of the policy with noise in its matrices, drawn anew for each version; evaluations are greedy, and
sample from the policy itself. Runs that are in FOLDER are not played again.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import genrl_graph
from genrl_graph.contract.registry import import_file
from genrl_graph.graph_file.document import parse_document
from genrl_graph.graph_file.read import read_document
from genrl_graph.runners.play import play
from genrl_graph.store.metrics_file import metric_lines

METHODS = ("none", "tis", "mis", "icepop")
SPREADS = (0.1, 0.3, 0.6, 1.0, 1.5)
SOLVED, GAP, SIZE = "eval/score/reward", "update/log_ratio_mean", "update/effective_sample_size"
PAIRS = ((0, 1), (3, 4), (2, 2), (9, 9), (5, 1), (8, 2), (7, 5), (6, 9))
SUMS = [{"question": f"{a}+{b}=", "answer": str((a + b) % 10)} for a, b in PAIRS]

GAME = """
graph: perturbed
version: 1
carry:
  policy:
    type: policy.perturbed_lm
    params: {{alphabet: 0123456789+=, initializer_range: 0.1, hidden_size: 32, layers: 1, heads: 2, spread: {spread}}}
    next: update
nodes:
  tasks: {{type: source.list, params: {{tasks: {sums}, eval_tasks: {sums}}}}}
  answer:
    type: generate.answer
    inputs: {{tasks: tasks, policy: policy}}
    params: {{template: "{{{{ task.question }}}}", num_generations: 16, max_new_tokens: 1}}
  score: {{type: reward.regex, inputs: {{rollouts: answer}}, params: {{pattern: '^(\\d)$', compare: true}}}}
  credit: {{type: advantage.group, inputs: {{scored: score}}}}
  update:
    type: update.grpo
    inputs: {{policy: policy, credited: [credit]}}
    params: {{learning_rate: 5e-3, max_batch_tokens: 65536, importance_correction: {method}}}
run: {{trackers: [], mode: train_and_evaluate, eval_every: 4, eval_temperature: 0}}
"""


def folder_of(out: Path, method: str, spread: float, seed: int) -> Path:
    """Return the folder of a run."""
    return out / f"{spread:g}" / method / f"seed-{seed}"


def play_once(out: Path, *, method: str, spread: float, seed: int, rounds: int) -> None:
    """Play a run, unless it has been played."""
    folder = folder_of(out, method, spread, seed)
    if folder.exists() and len(read(folder, GAP)) == rounds:
        return
    text = GAME.format(spread=spread, method=method, sums=json.dumps(SUMS))
    play(
        read_document(parse_document(text, file="perturbed.yaml")).graph,
        out=folder,
        seed=seed,
        rounds=rounds,
        quiet=True,
    )
    print(f"{folder}: solved {np.mean(read(folder, SOLVED)):.3f}", file=sys.stderr, flush=True)


def read(folder: Path, metric: str) -> list[float]:
    """Return the values of a metric in a run."""
    return [line[metric] for line in metric_lines(folder) if metric in line]


def table(out: Path, seeds: Sequence[int]) -> str:
    """Return means over seeds, with standard errors: what the policy solved on average over the run."""
    lines = ["| noise | log ratio | sample size | " + " | ".join(METHODS) + " |", "| --- " * (3 + len(METHODS)) + "|"]
    for spread in SPREADS:
        plain = [folder_of(out, "none", spread, seed) for seed in seeds]
        gap, size = (np.mean([np.mean(read(folder, name)) for folder in plain]) for name in (GAP, SIZE))
        cells = [f"{spread:g}", f"{gap:.2f}", f"{size:.0%}"]
        for method in METHODS:
            solved = [np.mean(read(folder_of(out, method, spread, seed), SOLVED)) for seed in seeds]
            cells.append(f"{np.mean(solved):.3f} ± {np.std(solved, ddof=1) / len(seeds) ** 0.5:.3f}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Play, and print the table, and what `compare` says of each size of noise."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=32)
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    import_file(Path(__file__).parents[3] / "perturbed.py")
    out, seeds = args.out or Path(tempfile.mkdtemp(prefix="corrections-")), range(args.seeds)
    for seed in seeds:
        for spread in SPREADS:
            for method in METHODS:
                play_once(out, method=method, spread=spread, seed=seed, rounds=args.rounds)
    for spread in SPREADS:
        runs = [f"{method}={out}/{spread:g}/{method}/*" for method in METHODS]
        expect = [f"{SOLVED}({method}) > {SOLVED}(none)" for method in METHODS[1:]]
        genrl_graph.compare(*runs, at="rounds", metrics=[SOLVED, GAP], expect=expect, out=out / f"compared-{spread:g}")
        print(f"\nnoise {spread:g}", (out / f"compared-{spread:g}" / "table.md").read_text(), sep="\n")
    print(table(out, seeds))


if __name__ == "__main__":
    main()
