"""The cells of a sweep: crossed and zipped axes, names, and what cannot be played, before anything is."""

from pathlib import Path

import pytest

from genrl_graph.errors import GraphError, ParamError, StoreError
from genrl_graph.runners.sweep.plan import SweepOptions, plan_sweep
from genrl_graph.runners.sweep.play import play_sweep
from genrl_graph.store.sweep_folder import CellEnd, add_end, write_sweep

HIGH, NUM = "nodes.draw.params.high", "nodes.draw.params.num_generations"


def names(game: Path, *overrides: str, **options: object) -> list[str]:
    """Return the names of the cells."""
    plan = plan_sweep(SweepOptions(graph=game, overrides=overrides, **options))  # type: ignore[arg-type]
    return [cell.name for cell in plan.record.cells]


def test_axes_are_crossed_and_every_setting_has_its_first_seed_first(game: Path) -> None:
    assert names(game, f"{HIGH}=10,20", f"{NUM}=range(2,4)", "run.rounds=2", seeds="0:2") == [
        *(f"high_{high}-num_generations_{num}-seed_0" for high in (10, 20) for num in (2, 3)),
        *(f"high_{high}-num_generations_{num}-seed_1" for high in (10, 20) for num in (2, 3)),
    ]


def test_zipped_axes_change_together(game: Path) -> None:
    zipped = names(
        game, f"{HIGH}=10,20", "nodes.tasks.params.high=1,2", f"{NUM}=2,3", zips=["draw.params.high,tasks.params.high"]
    )
    assert zipped == [
        f"draw.params.high_{high}-tasks.params.high_{other}-num_generations_{num}-seed_0"
        for high, other in ((10, 1), (20, 2))
        for num in (2, 3)
    ]


def test_cells_have_the_overrides_that_play_them(game: Path) -> None:
    plan = plan_sweep(SweepOptions(graph=game, overrides=(f"{HIGH}=10,20", "run.rounds=2"), seeds="5"))
    assert plan.record.cells[1].overrides == (f"{HIGH}=20", "run.rounds=2", "run.seed=5")
    assert len({cell.game for cell in plan.record.cells}) == 2


def test_without_axes_there_is_a_cell_for_every_seed(game: Path) -> None:
    assert names(game) == ["numbers-seed_0"]
    assert names(game, "run.seed=3,4") == ["numbers-seed_3", "numbers-seed_4"]


def test_names_that_are_no_folders_become_numbers(game: Path) -> None:
    long = ",".join(f"'{letter * 90}'" for letter in "ab")
    assert names(game, "carry.policy.params={bias:1},{bias:2}") == ["params_bias_1-seed_0", "params_bias_2-seed_0"]
    assert names(game, f"graph={long}") == ["setting_0000-seed_0", "setting_0001-seed_0"]


@pytest.mark.parametrize(
    ("overrides", "options", "message"),
    [
        (["nodes.drow.params.high=1,2"], {}, "no"),
        (["nodes.draw.params.hihg=1,2"], {}, "did you mean 'high'?"),
        ([f"{HIGH}=1,2", f"{HIGH}=3"], {}, "is set 2 times"),
        ([f"{HIGH}=10,10.0"], {}, "are the same game"),
        ([f"{HIGH}=1,2", f"{NUM}=1,2,3"], {"zips": ["high,num_generations"]}, "give equally many"),
        ([f"{HIGH}=1,2"], {"zips": ["high"]}, "names one key"),
        ([f"{HIGH}=1,2"], {"zips": ["high,hihg"]}, "'hihg' is no key of this sweep"),
        (["run.seed=1,2"], {"seeds": "0:5"}, "run.seed is given, too"),
        (["run.seed=a"], {}, "a seed is a whole number"),
        ([f"{HIGH}=interval(1,2)"], {}, "say how many to draw with --trials N"),
        ([f"{HIGH}=1,2"], {"trials": 3, "goal": "x"}, "and a key=interval(low,high) to draw from"),
        ([f"{HIGH}=1,2"], {"goal": "stage0/reward"}, "give it with one of them"),
        ([f"{HIGH}=1,2"], {"keep": 3}, "--goal METRIC says what"),
        ([f"{HIGH}=1,2"], {"keep": 1, "goal": "x"}, "wants at least 2"),
        ([f"{HIGH}=1,2"], {"keep": 3, "goal": "most:x"}, "write METRIC, max:METRIC or min:METRIC"),
        (["run.rounds=2,3"], {"keep": 3, "goal": "x"}, "a search compares settings of equal length"),
    ],
)
def test_what_names_nothing_or_does_not_fit_is_refused_before_anything_is_written(
    game: Path, overrides: list[str], options: dict[str, object], message: str
) -> None:
    with pytest.raises((ParamError, GraphError)) as caught:
        names(game, *overrides, **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_setting_that_cannot_be_played_is_named(game: Path) -> None:
    with pytest.raises(GraphError) as caught:
        names(game, f"{NUM}=0,2,-1")
    lines = str(caught.value).splitlines()
    assert [line.partition(":")[0] for line in lines] == ["num_generations=0", "num_generations=-1"]


def test_a_folder_that_holds_something_else_is_refused(game: Path, tmp_path: Path) -> None:
    plan = plan_sweep(SweepOptions(graph=game, overrides=(f"{HIGH}=10,20",), seeds="0:2"))
    (tmp_path / "files").mkdir()
    (tmp_path / "files/notes.txt").touch()
    with pytest.raises(StoreError, match="holds files but no sweep"):
        play_sweep(plan, out=tmp_path / "files", jobs=1, resume=False, quiet=True)
    old = plan.record.model_copy(update={"jobs": 1})
    write_sweep(tmp_path / "begun", old)
    with pytest.raises(StoreError, match="holds a sweep already; go on with --resume"):
        play_sweep(plan, out=tmp_path / "begun", jobs=1, resume=False, quiet=True)
    for changed, message in (
        ({"code": {"genrl-graph": "0.0.1"}}, "was begun with other code (genrl-graph was 0.0.1, is "),
        (
            {"cells": (*old.cells, old.cells[0].model_copy(update={"name": "x"}))},
            "has the cell x, which is not asked for",
        ),
        ({"cells": (old.cells[0].model_copy(update={"game": "f"}),)}, "was another game when the sweep began"),
    ):
        write_sweep(tmp_path / "begun", old.model_copy(update=changed))
        with pytest.raises(StoreError) as caught:
            play_sweep(plan, out=tmp_path / "begun", jobs=1, resume=True, quiet=True)
        assert message in str(caught.value)


def test_a_sweep_grows_by_settings_and_seeds_and_plays_only_what_is_left(game: Path, tmp_path: Path) -> None:
    first = plan_sweep(SweepOptions(graph=game, overrides=(f"{HIGH}=10",), seeds="0:2"))
    record = first.record.model_copy(update={"jobs": 1})
    write_sweep(tmp_path / "s", record)
    for cell in record.cells:
        add_end(tmp_path / "s", CellEnd(cell=cell.name, rounds=4))
    sweep = play_sweep(first, out=tmp_path / "s", jobs=None, resume=True, quiet=True)
    assert sweep.cells.state.tolist() == ["finished", "finished"]
    assert not (tmp_path / "s/logs").exists()
