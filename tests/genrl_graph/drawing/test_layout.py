"""The geometry of pictures: in any game, no line runs through a box or along another line."""

from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import pytest
from dense import dense_yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from genrl_graph import load
from genrl_graph.dag.schedule import compile_graph
from genrl_graph.drawing.fonts import text_width
from genrl_graph.drawing.layout import SIZES, Layout, Wire, layout
from genrl_graph.drawing.picture import Picture, picture
from genrl_graph.graph_file.document import parse_document
from genrl_graph.graph_file.read import read_document

GRAPHS = Path(__file__).parents[3] / "graphs"
SHIPPED = sorted(GRAPHS.rglob("*.yaml"))
Segment = tuple[float, float, float, float]


def dense(nodes: int, seed: int = 0) -> Picture:
    return picture(compile_graph(read_document(parse_document(dense_yaml(nodes, seed=seed), file="dense.yaml")).graph))


def segments(wire: Wire) -> Iterator[Segment]:
    for (x0, y0), (x1, y1) in zip(wire.points, wire.points[1:], strict=False):
        assert x0 == x1 or y0 == y1, "lines run straight"
        yield min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)


def assert_clean(drawn: Layout) -> None:
    """Assert that boxes do not overlap, and that lines overlap neither each other nor boxes; all are in the picture."""
    areas = {p.box.name: (p.x, p.y, p.x + p.w, p.y + p.h) for p in drawn.boxes}
    for (name, a), (other, b) in combinations(areas.items(), 2):
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1], f"{name} lies on {other}"
    along: dict[tuple[str, float], list[tuple[float, float, str]]] = {}
    for wire in drawn.wires:
        for x0, y0, x1, y1 in segments(wire):
            assert x0 >= 0 and y0 >= 0 and x1 <= drawn.width and y1 <= drawn.height
            for name, (left, top, right, bottom) in areas.items():
                inside = x1 > left and x0 < right and y1 > top and y0 < bottom
                assert not inside, f"{wire.line.ref} -> {wire.reader} runs through {name}"
            key = ("across", y0) if y0 == y1 else ("down", x0)
            span = (x0, x1) if y0 == y1 else (y0, y1)
            along.setdefault((key[0], round(key[1], 3)), []).append((*span, f"{wire.line.ref} {wire.line.style}"))
    for (way, at), spans in along.items():
        for (start, end, one), (other_start, other_end, two) in combinations(spans, 2):
            apart = one == two or start >= other_end - 0.01 or other_start >= end - 0.01
            assert apart, f"{one} and {two} lie on each other, {way} at {at}"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_no_text_of_a_shipped_graph_is_cut(path: Path) -> None:
    drawn = layout(picture(compile_graph(load(path))))
    texts = [text.text for text in (*drawn.texts, *(text for box in drawn.boxes for text in box.texts))]
    assert [text for text in texts if "…" in text] == []


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
@pytest.mark.parametrize("params", [False, True])
def test_shipped_games_are_drawn_clean(path: Path, params: bool) -> None:
    assert_clean(layout(picture(compile_graph(load(path)), params=params)))


@settings(max_examples=25)
@given(nodes=st.integers(12, 40), seed=st.integers(0, 1000))
def test_lines_run_clear_of_boxes_and_of_each_other(nodes: int, seed: int) -> None:
    assert_clean(layout(dense(nodes, seed)))


def test_two_hundred_dense_nodes_are_drawn_clean() -> None:
    drawn = layout(dense(200))
    assert len(drawn.boxes) >= 200
    assert_clean(drawn)


def test_texts_fit_into_their_boxes() -> None:
    for path in SHIPPED:
        for placed in layout(picture(compile_graph(load(path)), params=True)).boxes:
            for text in placed.texts:
                assert text_width(text.text, SIZES[text.style]) <= placed.w - 20, text.text
                assert placed.y + 6 < text.y < placed.y + placed.h - 3


def test_readers_stand_below_what_they_read_and_stages_from_left_to_right() -> None:
    drawn = picture(compile_graph(load(GRAPHS / "quickstart.yaml")))
    at = {placed.box.name: (placed.x, placed.y) for placed in layout(drawn).boxes}
    assert at["answer"][0] == at["score_answer"][0] == at["credit_answer"][0]
    assert at["answer"][1] < at["score_answer"][1] < at["credit_answer"][1]
    assert at["answer"][1] == at["critique"][1] == at["final"][1]
    assert at["policy"][0] < at["answer"][0] < at["critique"][0] < at["final"][0]
