"""The plan is what is played: of every shipped graph the steps that `plan` prints, in the order of a run's profile."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import genrl_graph.graphs
from genrl_graph import load
from genrl_graph.cli import run_command
from genrl_graph.contract.node import Exchange
from genrl_graph.dag.schedule import compile_graph
from genrl_graph.drawing.picture import picture
from genrl_graph.runners.dry import dry_schedule
from genrl_graph.runners.play import play_schedule

FOLDER = Path(genrl_graph.graphs.__file__).resolve().parent
FILES = sorted(path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*.yaml"))
PLANNED = re.compile(r"^(?:stage \d+)? +(\d+)\. (\S+(?: \S+)?)  (.*)$", re.MULTILINE)
SIZES = ("num_tasks", "num_episodes")
BESIDE = re.compile(r"runs beside (.+?)(?:;|$)")


def played(path: Path, folder: Path) -> list[dict[str, Any]]:
    """The spans of the first peer in a dry round of a few tasks, by their start."""
    nodes = load(path).nodes.items()
    few = [
        f"nodes.{name}.params.{size}=2"
        for name, part in nodes
        for size in SIZES
        if (getattr(part.node, size, None) or 0) > 2
    ]
    schedule = dry_schedule(compile_graph(load(path, few)))
    needed = [node.min_peers for node in schedule.nodes.values() if isinstance(node, Exchange)]
    changes = {"rounds": 1, "peers": max([1, *needed]), "mode": "train", "trackers": (), "max_retries": 0}
    run = play_schedule(
        schedule,
        schedule.graph.run.model_copy(update=changes),
        folder=folder,
        console=Console(quiet=True),
        imports={},
        make=lambda carry, name, seed: carry.dry(name, seed=seed),
        profile="steps",
    )
    events = json.loads((run.folder / "profile.json").read_text())
    (peer,) = [event["pid"] for event in events if event["args"].get("name") == "peer0000"]
    spans = [event for event in events if event["pid"] == peer and event.get("cat") in ("step", "await")]
    return sorted(spans, key=lambda event: float(event["ts"]))


@pytest.mark.parametrize("name", FILES)
def test_the_steps_of_the_plan_are_played_in_its_order(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["plan", str(FOLDER / name)]) == 0
    lines = PLANNED.findall(capsys.readouterr().out)
    assert [int(number) for number, _, _ in lines] == list(range(1, len(lines) + 1))
    planned = [(step, BESIDE.findall(rest)) for _, step, rest in lines]
    drawn = picture(compile_graph(load(FOLDER / name))).boxes.values()
    numbered = {number: box.name for box in drawn for number in box.steps}
    assert [numbered[int(number)] for number, _, _ in lines] == [step.split()[-1] for _, step, _ in lines]
    spans = next(
        spans for attempt in range(5) if begins_early(spans := played(FOLDER / name, tmp_path / f"{attempt}"), planned)
    )
    in_turn = [span for span in spans if span["tid"] == 0]
    assert [span["name"].removeprefix("await ") for span in in_turn] == [step for step, _ in planned]
    started = {span["name"]: span["ts"] for span in spans if span["cat"] == "step"}
    beside = {span["name"] for span in spans if span["tid"] == 1}
    assert beside == {step for step, other in planned if other}
    order = [step for step, _ in planned]
    for step, other in planned:
        if other:
            assert started[order[order.index(other[0]) - 1]] <= started[step]


def begins_early(spans: list[dict[str, Any]], planned: list[tuple[str, list[str]]]) -> bool:
    """Return whether each step beside another one starts with that one, and not at its own place.

    Steps of a dry run are so short that its thread may get a core only after the other one has ended.
    """
    own_place = [float(span["ts"]) for span in spans if span["tid"] == 0]
    started = {span["name"]: float(span["ts"]) for span in spans if span["cat"] == "step"}
    return all(started[step] < own_place[at] for at, (step, other) in enumerate(planned) if other)
