"""Long runs on the page, and what the viewer remembers of them."""

from pathlib import Path

import numpy as np
import pytest
from toys import toy_game
from viewed import make_long_run

from genrl_graph.view.shown_curves import ShownCurves
from genrl_graph.view.watched import Watched


def test_memory_does_not_grow_with_the_rounds(tmp_path: Path) -> None:
    make_long_run(tmp_path / "run", toy_game(), rounds=3000)
    watched = Watched.of([tmp_path / "run"])
    watched.read_all()
    (run,) = watched.runs
    (curve,) = ShownCurves(watched).news(["answer/rows"])["answer/rows"]["settings"]
    assert len(curve["rounds"]) == 375 and curve["span"] == 8 and curve["mean"][0] == pytest.approx(np.mean(range(8)))
    assert run.state()["played"] == 3000
    assert run.metrics.curves.by_span.nbytes <= 512 * 16 * 5 * 8
