"""Cost of a round: this project, TRL's `GRPOTrainer`, the same by hand, and the bare batched calls, in one table.

The three-stage round has the prompts of three agents that quote each other; TRL plays one stage. All completions are
equally long, so that the work is the same; every contender is a process of its own that plays a round when it is told
to, and they take turns. By hand means transformers with padded rows: in float32 with a call of `generate` for every
completion, or in bfloat16 with one a stage. TRL computes as it does by default: bfloat16, activation checkpointing.

GENRL_GRAPH_BENCH_MODEL=tiny plays the tiny policy, a few tokens and a few rounds, to try the benchmark itself;
GENRL_GRAPH_BENCH_TIMES says how many rounds each contender plays.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

import pytest
import torch
from measure import figures, keep, quartiles, started
from rich.console import Console
from rich.table import Table
from speed_game import Job
from speed_picture import draw

from genrl_graph.nodes.policy.compute.device import gains_from_bfloat16

MODEL = os.environ.get("GENRL_GRAPH_BENCH_MODEL", "smollm2")
FULL = MODEL == "smollm2"
TIMES = int(os.environ.get("GENRL_GRAPH_BENCH_TIMES", "2"))
THREE = Job("smollm2" if FULL else "tiny", (257, 575, 722), tasks=4, generations=2, new_tokens=64 if FULL else 8)
NATIVE = gains_from_bfloat16(torch.device("cpu"))
PEAK_GB = 4.0
"""Memory that a three-stage round may hold at most; a bare step of this model with float32 AdamW takes 2.8."""
GROUPS = {"G = 2": (16, 2, 1), "G = 8": (4, 8, 1), "G = 32": (1, 32, 1), "G = 2, twice the budget": (16, 2, 2)}
"""Tasks, generations, budgets: always 32 completions, more tokens than a budget holds."""
BUDGET = 1024
ROUNDS, WARM = (1000, 100) if FULL else (200, 100)


@dataclass(frozen=True, slots=True)
class Match:
    """A job and who plays it; `limits` has, for another contender, the share of its time that is to be ours."""

    title: str
    job: Job
    contenders: Sequence[str]
    limits: Mapping[str, float]
    peak_gb: float | None = None


@dataclass(slots=True)
class Score:
    """Time, throughput, memory and padding of one contender's rounds."""

    seconds: list[float] = field(default_factory=list)
    generated_per_s: list[float] = field(default_factory=list)
    trained_per_s: list[float] = field(default_factory=list)
    peak_gb: float = 0.0
    padding: float = 0.0
    twice: float = 0.0

    def take(self, told: Mapping[str, float]) -> None:
        """Keep the figures of one more round."""
        self.seconds.append(told["seconds"])
        self.generated_per_s.append(told["generated_per_s"])
        self.trained_per_s.append(told["trained_per_s"])
        self.peak_gb, self.padding, self.twice = told["peak_gb"], told["padding"], told["twice"]


MATCHES = [
    Match(
        "three stages, 4 tasks, G = 2",
        THREE,
        ("ours", "apart", "batched"),
        {"apart": 1 / 5 if NATIVE else 1 / 2},
        PEAK_GB,
    ),
    Match(
        "three stages, 1 task, G = 8",
        replace(THREE, tasks=1, generations=8),
        ("ours", "apart", "batched"),
        {"apart": 1 / 10 if NATIVE else 1 / 4},
        PEAK_GB,
    ),
    Match(
        "one stage, 1 task, G = 8",
        replace(THREE, prompts=THREE.prompts[:1], tasks=1, generations=8),
        ("ours", "trl", "apart", "batched"),
        {"trl": 1 / 2},
    ),
]
NAMES = {
    "ours": "genrl_graph",
    "trl": "TRL GRPOTrainer",
    "apart": "one call a completion, float32",
    "batched": "one call a stage, bfloat16",
}


@pytest.mark.timeout(4 * 3600)
def test_speed(folder: Path) -> None:
    results = [(match, played(match, folder / f"prompts-{at}.json")) for at, match in enumerate(MATCHES)]
    tell(results)
    verdicts = wanted(results)
    figures("speed_wanted", "Speed: what is wanted", verdicts)
    draw([(match.title, {NAMES[name]: score for name, score in scores.items()}) for match, scores in results])


@pytest.mark.timeout(3600)
def test_peak_memory_follows_the_budget(folder: Path) -> None:
    job = replace(THREE, prompts=THREE.prompts[:1])
    peaks = {}
    for what, (tasks, generations, budgets) in GROUPS.items():
        asked = replace(job, tasks=tasks, generations=generations, budget=budgets * BUDGET)
        with contender("ours", asked, folder / "prompts.json") as one:
            peaks[what] = one.round()["peak_gb"]
    base = peaks["G = 2"]
    rows: dict[str, tuple[float, float | None]] = {f"{what}: peak in GB": (peak, None) for what, peak in peaks.items()}
    rows |= {f"{what}: to that of G = 2": (peaks[what] / base, 1.1) for what in ("G = 8", "G = 32")}
    figures("speed_memory", f"Peak memory of a round of 32 completions, trained {BUDGET} tokens at once", rows)


@pytest.mark.timeout(3600)
def test_a_thousand_rounds(folder: Path) -> None:
    process = started("speed_rounds.py", str(ROUNDS), str(folder))
    told = json.loads(process.communicate(timeout=3600)[0].splitlines()[-1])
    held, seconds = told["rss_mb"][WARM:], told["seconds"][WARM:]
    fifth = len(seconds) // 5
    rows = {
        "memory: MB more each 100 rounds": (100 * slope(held), 1.0),
        "time of the last fifth to that of the first": (median(seconds[-fifth:]) / median(seconds[:fifth]), 1.1),
        "milliseconds a round": (1000 * median(seconds), None),
    }
    figures("speed_rounds", f"{ROUNDS} tiny rounds, the first {WARM} left out", rows)


class Contender:
    """A process that plays rounds of a job."""

    def __init__(self, name: str, job: Job, prompts: Path) -> None:
        threads = os.environ.get("OMP_NUM_THREADS", str(torch.get_num_threads()))
        self.name = name
        self._process = started("speed_worker.py", name, json.dumps(job.sent()), str(prompts), OMP_NUM_THREADS=threads)
        assert self._told() == {"ready": True}

    def round(self) -> dict[str, float]:
        """The figures of one more round."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self._told()

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)

    def _told(self) -> dict[str, float]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the contender {self.name!r} has died"
        told: dict[str, float] = json.loads(line)
        return told


@contextmanager
def contender(name: str, job: Job, prompts: Path) -> Iterator[Contender]:
    """A contender that has played its first round."""
    one = Contender(name, job, prompts)
    try:
        yield one
    finally:
        one.close()


def played(match: Match, prompts: Path) -> dict[str, Score]:
    """The rounds of all contenders, which take turns, every other time in the reverse order."""
    scores = {name: Score() for name in match.contenders}
    with ExitStack() as stack:
        ready = [stack.enter_context(contender(name, match.job, prompts)) for name in match.contenders]
        for turn in range(TIMES):
            for one in ready[:: 1 if turn % 2 == 0 else -1]:
                scores[one.name].take(one.round())
    return scores


def tell(results: Sequence[tuple[Match, Mapping[str, Score]]]) -> None:
    """Print the table and put its figures into `runs/bench.json`."""
    load = f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs"
    title = f"Speed: {MODEL}, prompts of {', '.join(map(str, THREE.prompts))} tokens, {THREE.new_tokens} new ones"
    table = Table(title=title, caption=load, title_justify="left", caption_justify="left", title_style="bold")
    heads = ("generated/s", "trained/s", "s a round", "ours to it (quartiles)", "peak GB", "padding", "prompts again")
    for header in ("job", "who", *heads):
        table.add_column(header, justify="right" if header in heads else "left")
    rows: list[dict[str, object]] = []
    for match, scores in results:
        for name, score in scores.items():
            ratios = shares(scores, name)
            table.add_row(
                match.title if name == match.contenders[0] else "",
                NAMES[name],
                f"{median(score.generated_per_s):.0f}",
                f"{median(score.trained_per_s):.0f}",
                f"{median(score.seconds):.3g}",
                f"{median(ratios):.2g} ({quartiles(ratios)})" if name != "ours" else "",
                f"{score.peak_gb:.2f}",
                f"{score.padding:.1%}",
                f"{score.twice:.1%}",
            )
            rows.append({"job": match.title, "who": NAMES[name], "ours_to_it": ratios, **figures_of(score)})
        table.add_section()
    Console(width=170, highlight=False).print("", table)
    keep("speed", {"title": title, "rows": rows})


def figures_of(score: Score) -> dict[str, object]:
    """The figures of a contender under the names that the JSON has."""
    return {
        "seconds": score.seconds,
        "generated_tokens_per_s": score.generated_per_s,
        "trained_tokens_per_s": score.trained_per_s,
        "peak_gb": score.peak_gb,
        "padding_share": score.padding,
        "prompt_tokens_read_again_share": score.twice,
    }


def wanted(results: Sequence[tuple[Match, Mapping[str, Score]]]) -> dict[str, tuple[float, float | None]]:
    """The ratios and peaks that have a limit, each with it."""
    rows: dict[str, tuple[float, float | None]] = {}
    for match, scores in results:
        for name, most in match.limits.items():
            rows[f"{match.title}: time to {NAMES[name]}"] = (median(shares(scores, name)), most)
        if "trl" in scores:
            rows[f"{match.title}: peak memory to {NAMES['trl']}"] = (
                scores["ours"].peak_gb / scores["trl"].peak_gb,
                1.0,
            )
        if match.peak_gb is not None:
            rows[f"{match.title}: peak memory in GB"] = (scores["ours"].peak_gb, match.peak_gb)
    return rows


def shares(scores: Mapping[str, Score], name: str) -> list[float]:
    """Our time as a share of a contender's, by turn."""
    return [mine / other for mine, other in zip(scores["ours"].seconds, scores[name].seconds, strict=True)]


def slope(values: Sequence[float]) -> float:
    """The least-squares slope."""
    middle, mean = (len(values) - 1) / 2, sum(values) / len(values)
    above = sum((at - middle) * (value - mean) for at, value in enumerate(values))
    return above / sum((at - middle) ** 2 for at in range(len(values)))
