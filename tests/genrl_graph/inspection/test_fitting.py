"""Tables of runs fit a terminal: names are whole, numbers continue below, repeated branches are folded."""

import io

import pytest
from rich.console import Console
from toys import toy_game

from genrl_graph import open_run, play
from genrl_graph.inspection.fitting import print_table
from genrl_graph.inspection.lineage import print_lineage
from genrl_graph.inspection.listing import print_runs
from genrl_graph.inspection.overview import print_run

LONG = "a_run_whose_name_says_learning_rate_1e-3_and_seed_7_and_more"


def console(width: int) -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(file=out, width=width, markup=False, highlight=False, emoji=False), out


@pytest.mark.parametrize("width", [30, 60, 80, 200])
def test_no_cell_of_a_table_is_cut_or_broken(width: int) -> None:
    header = ("node", "type", *(f"metric{number}" for number in range(8)))
    rows = [(f"node_with_a_name{row}", "generate.answer", *(f"{row}.{at}234" for at in range(8))) for row in range(3)]
    screen, out = console(width)
    print_table(screen, header, rows, left=2)
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= width and "…" not in out.getvalue()
    words = out.getvalue().replace(",", " ").split()
    assert all(cell in words for cells in (*rows, header[1:]) for cell in cells)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("fitting") / "runs"
    for name in ("short", LONG):
        play(toy_game(), out=out / name, rounds=2, peers=2, quiet=True)
    return str(out)


def test_lists_and_overviews_of_80_columns_keep_every_name(folder: str) -> None:
    screen, out = console(80)
    run = open_run(f"{folder}/{LONG}")
    print_runs(run.folder.parent, screen)
    print_run(run, screen)
    words = out.getvalue().replace(":", " ").split()
    parts = [name for node, part in run.graph.nodes.items() for name in (node, part.type_name)]
    assert {LONG, "short", "toy", *parts} <= set(words)
    sentences = ("versions: ", f"{LONG}: ")  # the terminal wraps these
    tables = [line for line in out.getvalue().splitlines() if not line.startswith(sentences)]
    assert max(map(len, tables)) <= 80


def test_a_lineage_shows_each_rollout_once_and_the_question(folder: str) -> None:
    screen, out = console(80)
    run = open_run(f"{folder}/short")
    final = run.frame("final", 1).rows()[0]
    print_lineage(run, final["id"], screen)
    lines = out.getvalue().splitlines()
    tree = lines[: next(at for at, line in enumerate(lines) if line.startswith("trained on by"))]
    assert max(map(len, tree)) <= 80
    assert tree[0].startswith(f"task {final['task_id']}: ") and len(tree[0]) > len(f"task {final['task_id']}: ")
    heads = [line.strip("├└│─ ")[:10] for line in tree if "  round 1  " in line]
    assert len(heads) == len(set(heads)) > 4
    assert all(any(parent[:10] in line for line in tree) for parent in final["parent_ids"])
