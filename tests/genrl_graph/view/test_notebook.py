"""A run in a notebook."""

from pathlib import Path

from viewed import HOSTILE

import genrl_graph


def test_a_run_shows_its_picture_curves_and_last_transcripts(runs: Path) -> None:
    shown = genrl_graph.open_run(runs / "toy")._repr_html_()
    assert "toy: toy, finished, 3 of 3 rounds" in shown and shown.count("<polyline") == 2
    assert 'data-name="score_answer"' in shown and "rows" in shown
    last = genrl_graph.open_run(runs / "toy").frame("answer", 2, holder="peer0000").rows()[0]
    assert f"answer, round 2, peer0000, {last['task_id']}" in shown and f"[completion] {last['completion']}" in shown


def test_text_of_a_run_is_no_markup_in_a_notebook(runs: Path) -> None:
    shown = genrl_graph.open_run(runs / "hostile")._repr_html_()
    assert "window.owned=1" in shown and HOSTILE not in shown and "<script" not in shown and "<img" not in shown
