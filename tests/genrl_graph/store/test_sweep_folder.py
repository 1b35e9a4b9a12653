"""The folder of a sweep: its record, how cells ended, and files that a crash or a stranger left."""

import json
from pathlib import Path

import pytest

from genrl_graph.errors import StoreError
from genrl_graph.store.sweep_folder import (
    ENDS,
    SWEEP,
    Cell,
    CellEnd,
    Goal,
    SweepRecord,
    add_end,
    read_ends,
    read_sweep,
    sweep_of,
    write_sweep,
)

RECORD = SweepRecord(
    graph="tiny",
    seeds=(0, 1),
    goal=Goal(metric="stage0/reward"),
    cells=(Cell(name="a-seed_0", setting="a", seed=0, overrides=("x=1",), game="f"),),
)


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    folder = tmp_path / "new/sweep"
    write_sweep(folder, RECORD)
    assert read_sweep(folder) == RECORD
    assert sweep_of(folder / "a-seed_0") == "sweep"
    assert sweep_of(folder / "b-seed_0") is None
    assert sweep_of(tmp_path) is None


def test_the_last_end_of_a_cell_counts_and_a_torn_line_does_not(tmp_path: Path) -> None:
    assert read_ends(tmp_path) == {}
    add_end(tmp_path, CellEnd(cell="a", rounds=3, exit_code=20, reason="no idea"))
    with (tmp_path / ENDS).open("a") as file:
        file.write('{"cell": "a", "rou')
    add_end(tmp_path, CellEnd(cell="a", rounds=5))
    assert read_ends(tmp_path) == {"a": CellEnd(cell="a", rounds=5)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "has format 2, newer than 1; upgrade genrl-graph"),
        ({"seeds": ["a"]}, "seeds.0: "),
        ({"more": 1}, "more: Extra inputs are not permitted"),
        ({"cells": [{"name": "../../etc", "setting": "a", "seed": 0}]}, "cannot name a file"),
        ({"cells": [{"name": "a", "setting": "a", "seed": -1}]}, "cells.0.seed: "),
    ],
)
def test_a_record_of_another_form_is_refused_in_one_line(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    (tmp_path / SWEEP).write_text(json.dumps(RECORD.model_dump() | change))
    with pytest.raises(StoreError) as caught:
        read_sweep(tmp_path)
    assert message in str(caught.value)
    assert str(tmp_path / SWEEP) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_link_in_place_of_a_record_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text("{}")
    (tmp_path / SWEEP).symlink_to(tmp_path / "other.json")
    with pytest.raises(StoreError, match="is a link"):
        read_sweep(tmp_path)
