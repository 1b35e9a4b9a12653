"""Searches: which settings go on after each rung, and which are drawn, whatever happens in between."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from genrl_graph.graph_file.axes import Axis, Interval
from genrl_graph.runners.sweep.cell_process import Task
from genrl_graph.runners.sweep.cells import Axes
from genrl_graph.runners.sweep.search import Drawing, Halving
from genrl_graph.runners.sweep.study import STUDY, Study, chosen, rungs
from genrl_graph.runners.sweep.work import Work
from genrl_graph.store.sweep_folder import Cell, CellEnd, Goal

LABELS = [f"rate={number}" for number in range(9)]
GRID = Axes((Axis("x.rate", tuple(f"x.rate={n}" for n in range(9)), tuple(map(str, range(9)))),), ())
LINE = Axes((), (Interval("x.rate", "x.rate", 1e-4, 1.0, whole=False, log=True),))


def cells_of(label: str) -> list[Cell]:
    """Return the cells of a setting: two seeds."""
    return [Cell(name=f"{label}-{seed}", setting=label, seed=seed) for seed in (0, 1)]


class Player:
    """Plays tasks at once; results are those of `values`, by setting, and some cells fail."""

    def __init__(self, values: Mapping[str, float], failing: Sequence[str] = ()) -> None:
        self.values, self.failing = values, failing
        self.ends: dict[str, CellEnd] = {}
        self.stopped: list[tuple[str, int]] = []
        self.played: list[tuple[str, int]] = []

    def result(self, cells: Sequence[Cell], rounds: int) -> float:
        return self.values[cells[0].setting]

    def stop(self, cells: Sequence[Cell], rounds: int) -> None:
        self.stopped.append((cells[0].setting, rounds))

    def play(self, work: Work, most: int = 1000) -> None:
        """Play at most so many tasks, two at a time, the later one first."""
        for _ in range(most):
            tasks = [task for task in (work.next(), work.next()) if task is not None]
            for task in reversed(tasks):
                self._end(work, task)

    def _end(self, work: Work, task: Task) -> None:
        self.played.append((task.cell.name, task.rounds))
        code = 20 if task.cell.name in self.failing else 0
        end = CellEnd(cell=task.cell.name, rounds=task.rounds, exit_code=code)
        self.ends[task.cell.name] = end
        work.ended(task, end)


def halving(folder: Path, player: Player, direction: str = "max") -> Halving:
    """Return the halving of nine settings, one in three, that a folder has."""
    study = Study(folder, Goal(metric="m", direction=direction), seed=0, keep=3)  # type: ignore[arg-type]
    for number, label in enumerate(LABELS):
        if label not in study.settings():
            study.add(label, {"x.rate": str(number)}, GRID)
    settings = {label: cells_of(label) for label in LABELS}
    return Halving(study, settings, (4, 12, 36), player.ends, player.result, player.stop)


def test_rungs_are_shares_of_the_rounds_that_leave_one_setting() -> None:
    assert rungs(400, 9, 3) == (45, 134)
    assert rungs(400, 8, 2) == (50, 100, 200)
    assert rungs(400, 2, 3) == ()
    assert rungs(2, 100, 3) == ()
    assert rungs(5, 100, 2) == (2, 3)


@pytest.mark.parametrize("direction", ["max", "min"])
def test_the_best_third_goes_on_after_each_rung(tmp_path: Path, direction: str) -> None:
    sign = 1 if direction == "max" else -1
    player = Player({label: sign * (number * 5 % 9) for number, label in enumerate(LABELS)})
    work = halving(tmp_path, player, direction)
    player.play(work)
    order = sorted(LABELS, key=lambda label: -sign * player.values[label])
    assert {label for label, rounds in player.stopped if rounds == 4} == set(order[3:])
    assert {label for label, rounds in player.stopped if rounds == 12} == set(order[1:3])
    assert [name for name, rounds in player.played if rounds == 36] == [f"{order[0]}-1", f"{order[0]}-0"]
    assert [row[0] for row in work.study.results()][:3] == order[:3]


@pytest.mark.parametrize("most", [1, 4, 9, 10, 11, 12])
def test_a_search_that_was_killed_decides_the_same(tmp_path: Path, most: int) -> None:
    values = {label: float(number * 5 % 9) for number, label in enumerate(LABELS)}
    whole, cut = Player(values), Player(values)
    (tmp_path / "whole").mkdir()
    (tmp_path / "cut").mkdir()
    whole.play(halving(tmp_path / "whole", whole))
    cut.play(halving(tmp_path / "cut", cut), most)
    cut.play(halving(tmp_path / "cut", cut))
    assert sorted(cut.played) == sorted(whole.played)
    assert set(cut.stopped) == set(whole.stopped)


def test_a_setting_with_a_failed_run_is_worst_and_the_others_go_on(tmp_path: Path) -> None:
    player = Player({label: float(number) for number, label in enumerate(LABELS)}, failing=["rate=8-1"])
    player.play(halving(tmp_path, player))
    assert ("rate=8", 4) in player.stopped
    assert ("rate=7-0", 36) in player.played


def draw_all(folder: Path, most: int, sessions: Sequence[int]) -> dict[str, float]:
    """Draw settings in several sessions, each killed after so many tasks; returns their results."""
    results: dict[str, float] = {}
    ends: dict[str, CellEnd] = {}
    settings: dict[str, Sequence[Cell]] = {}
    for tasks in sessions:
        study = Study(folder, Goal(metric="m"), seed=0, keep=None)

        def draw(study: Study = study) -> tuple[str, Sequence[Cell]]:
            trial = study.draw(LINE)
            ((_, value, _),) = chosen(LINE, trial.params)
            trial.set_user_attr("setting", value)
            results[value] = -abs(math.log10(trial.params["x.rate"]) + 2)
            return value, cells_of(value)

        player = Player(results)
        player.ends = ends
        player.play(Drawing(study, settings, 5, most, ends, player.result, draw), tasks)
    return results


def test_draws_close_in_on_the_best_and_do_not_depend_on_kills(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "cut").mkdir()
    whole = draw_all(tmp_path / "whole", 25, [1000])
    assert len(whole) == 25
    distances = [-value for value in whole.values()]
    assert sum(distances[15:]) / 10 < 0.6 * sum(distances[:10]) / 10
    assert list(draw_all(tmp_path / "cut", 25, [3, 7, 1000])) == list(whole)


def test_optunas_file_holds_no_pickle_and_needs_no_lock(tmp_path: Path) -> None:
    player = Player(dict.fromkeys(LABELS, 1.0))
    player.play(halving(tmp_path, player))
    assert (tmp_path / STUDY).read_text().startswith("{")
    assert [path.name for path in tmp_path.iterdir()] == [STUDY]
