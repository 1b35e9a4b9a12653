"""Long runs and large graphs on the page, what the viewer costs, and what it remembers."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from clicks import click, opened, text, until
from dense import dense_yaml
from toys import toy_game
from viewed import make_long_run, serving_process

from genrl_graph.graph_file.document import parse_document
from genrl_graph.graph_file.read import read_document
from genrl_graph.view.watched import Watched

if TYPE_CHECKING:
    from selenium.webdriver.chromium.webdriver import ChromiumDriver

ROUNDS = 5000


def cpu_seconds(pid: int) -> float:
    """Return the processor time of a process and its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.long
def test_five_thousand_rounds_of_two_hundred_nodes_can_be_used_at_once(
    browser: "ChromiumDriver", tmp_path: Path
) -> None:
    graph = read_document(parse_document(dense_yaml(200), file="dense.yaml")).graph
    make_long_run(tmp_path / "run", graph, rounds=ROUNDS)
    browser.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})  # processor time: others cost nothing
    with serving_process(tmp_path / "run") as (address, pid):
        before = cpu_seconds(pid)
        opened(browser, address)
        click(browser, '.picture .box[data-name="sum3"]')
        until(lambda: text(browser, "#node h2") == "sum3")
        measured = browser.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
        (page,) = (metric["value"] for metric in measured if metric["name"] == "TaskDuration")
        server = cpu_seconds(pid) - before
        print(f"the page took {page:.2f} s of the processor, the server {server:.2f} s")
        assert 0 < page < 2 and server < 2
        until(lambda: f"{ROUNDS} of" in text(browser, "#status") and "reading" not in text(browser, "#status"))


def test_memory_does_not_grow_with_the_rounds(tmp_path: Path) -> None:
    make_long_run(tmp_path / "run", toy_game(), rounds=3000)
    watched = Watched.of([tmp_path / "run"])
    watched.read_all()
    (run,) = watched.runs
    (curve,) = watched.curves(["answer/rows"])["answer/rows"]
    assert len(curve["rounds"]) == 375 and curve["span"] == 8 and curve["mean"][0] == pytest.approx(np.mean(range(8)))
    assert run.state()["played"] == 3000
    sizes = {len(array) for each in run.metrics.curves.values() for array in each._arrays()}
    assert max(sizes) <= 512
