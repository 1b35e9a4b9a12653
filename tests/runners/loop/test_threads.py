"""Threads: the share of this process; the run folder records threads and precision."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from genrl_graph import load, play
from genrl_graph.runners.loop.threads import processors, set_threads
from genrl_graph.store.run_folder import read_graph

GRAPHS = Path(__file__).parents[3] / "graphs"


@pytest.fixture(autouse=True)
def _threads_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("OMP_NUM_THREADS", "")  # restored afterwards, whatever is set in between
    monkeypatch.delenv("OMP_NUM_THREADS")
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("text", "count"), [("150000 100000", 1), ("50000 100000", 1), ("max 100000", None), ("", None)]
)
def test_a_control_group_limits_the_processors(tmp_path: Path, text: str, count: int | None) -> None:
    quota = tmp_path / "cpu.max"
    quota.write_text(text)
    assert processors(quota) == (count or processors(tmp_path / "none"))


def test_the_ranks_of_a_machine_share_its_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genrl_graph.runners.loop.threads.processors", lambda: 12)
    monkeypatch.setattr(os, "cpu_count", lambda: 12)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    set_threads(None)
    assert torch.get_num_threads() == 3


def test_what_is_asked_for_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    set_threads(2)
    assert torch.get_num_threads() == 2
    assert os.environ["OMP_NUM_THREADS"] == "1"
    set_threads(None)
    assert torch.get_num_threads() == 2


def test_a_run_notes_how_it_computes_and_tells_where_it_goes_on_otherwise(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.set_num_threads(1)
    run = play(load(GRAPHS / "tiny.yaml"), out=tmp_path / "run", rounds=1, quiet=True)
    assert read_graph(run.folder)[1]["computing"] == {"policy policy": "float32 on cpu", "threads": "1"}
    torch.set_num_threads(2)
    for rounds in (2, 3):
        play(load(GRAPHS / "tiny.yaml"), out=run.folder, rounds=rounds, resume=True)
    assert capsys.readouterr().err.count("threads was 1, is 2: bits may differ") == 1
