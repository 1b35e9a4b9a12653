"""Time to check a graph: in a running process and from the command line."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from measure import Row, interleaved, report

from genrl_graph import Graph, load
from genrl_graph.dag.schedule import compile_graph
from genrl_graph.nodes.advantage.group import GroupAdvantage
from genrl_graph.nodes.exchange.gather import Gather
from genrl_graph.nodes.generate.answer import Answer
from genrl_graph.nodes.generate.critique import Critique
from genrl_graph.nodes.policy.tiny_lm import TinyLM
from genrl_graph.nodes.reward.math import MathReward
from genrl_graph.nodes.select.nonzero_advantage import NonzeroAdvantage
from genrl_graph.nodes.source.reasoning_gym import ReasoningGym
from genrl_graph.nodes.update.grpo import Grpo

ROOT = Path(__file__).resolve().parents[2]
COMMAND = str(Path(sys.executable).with_name("genrl-graph"))
TIMES, MANY, FEW = 5, 1000, 100


def long_game(nodes: int) -> Graph:
    """Stage after stage reads what all peers said in the one before; one update on all of them."""
    g = Graph("long_game")
    policy = g.carry("policy", TinyLM())
    tasks = g.add("tasks", ReasoningGym(dataset="chain_sum"))
    said = g.add("say_0", Answer(num_generations=2), tasks=tasks, policy=policy)
    stages, rest = divmod(nodes - 1, 4)  # four nodes a stage, less the last gather; the source and the update
    credits = []
    for stage in range(stages):
        if stage:
            heard = g.add(f"hear_{stage - 1}", Gather(min_peers=1), rows=said)
            said = g.add(
                f"say_{stage}", Critique(quote=1, num_generations=2), tasks=tasks, answers=heard, policy=policy
            )
        scored = g.add(f"score_{stage}", MathReward(), rollouts=said)
        credited = g.add(f"credit_{stage}", GroupAdvantage(), scored=scored)
        if stage < rest:
            credited = g.add(f"keep_{stage}", NonzeroAdvantage(), rows=credited)
        credits.append(credited)
    g.next_round(policy=g.add("update", Grpo(), policy=policy, credited=credits))
    assert len(g.nodes) == nodes
    return g


def test_check(folder: Path) -> None:
    files = {nodes: folder / f"{nodes}.yaml" for nodes in (FEW, MANY)}
    for nodes, file in files.items():
        file.write_text(long_game(nodes).dump())
        assert load(file) == long_game(nodes)
    timings = interleaved(
        {
            "few yaml": lambda: compile_graph(load(files[FEW])),
            "many yaml": lambda: compile_graph(load(files[MANY])),
            "few python": lambda: compile_graph(long_game(FEW)),
            "many python": lambda: compile_graph(long_game(MANY)),
        },
        times=TIMES,
    )
    few_yaml = Row(f"{FEW} nodes in YAML", timings["few yaml"])
    few_python = Row(f"{FEW} nodes in Python", timings["few python"])
    report(
        "check",
        "Check: read or build, check and compile a graph in this process",
        [
            few_yaml,
            Row(f"{MANY:,} nodes in YAML", timings["many yaml"], few_yaml, at_most_s=3),
            few_python,
            Row(f"{MANY:,} nodes in Python", timings["many python"], few_python, at_most_s=3),
        ],
    )


def test_start(folder: Path) -> None:
    file = folder / "many.yaml"
    file.write_text(long_game(MANY).dump())
    commands = {
        "python -c pass": ([sys.executable, "-c", "pass"], None),
        "import genrl_graph": ([sys.executable, "-c", "import genrl_graph"], 1.0),
        "genrl-graph --help": ([COMMAND, "--help"], 1.0),
        "genrl-graph check dapo.yaml": ([COMMAND, "check", "graphs/multistage_math/dapo.yaml"], 1.0),
        f"genrl-graph check, {MANY:,} nodes": ([COMMAND, "check", str(file)], 3.0),
    }
    calls = {name: ran(argv) for name, (argv, _) in commands.items()}
    interleaved(calls, times=1)
    timings = interleaved(calls, times=TIMES)
    start = Row("python -c pass", timings["python -c pass"])
    others = list(commands.items())[1:]
    rows = [Row(name, timings[name], start, at_most_s=most) for name, (_, most) in others]
    report("start", "Start: commands in processes of their own", [start, *rows])


def ran(argv: list[str]) -> Callable[[], object]:
    """The call that runs a command to its end, in the root of the repository."""
    return lambda: subprocess.run(argv, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
