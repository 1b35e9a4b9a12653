"""The picture for a terminal: never too wide, and its rails show exactly the edges of the graph."""

import re
from pathlib import Path

import pytest
from dense import dense_yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import toy_game

from genrl_graph import Graph, load
from genrl_graph.dag.schedule import compile_graph
from genrl_graph.drawing.picture import Picture, picture
from genrl_graph.drawing.text import text
from genrl_graph.graph_file.document import parse_document
from genrl_graph.graph_file.read import read_document

SHIPPED = sorted((Path(__file__).parents[3] / "graphs").rglob("*.yaml"))
ROW = re.compile(r" *\d* \S (?:open |close )?(\S+) +(.*)")
TOY = """\
toy · 11 nodes · 2 stages · 1 exchange

carried from round to round
    ◇ policy           policy.toy             ToyPolicy     ●
stage 0                                                     ┊
  1 ⊙ tasks            source.toy_numbers     Tasks         ┊─●
  2 ▶ answer           generate.toy_draw      Rollouts      ○─○─●
  3 ⇄ open answers     exchange.gather                      ┊─│─○─◇
  4 ⇄ close answers                           PeerRollouts  ┊─│─│─◇─●
stage 1                                                     ┊ │ │   │
  5 ▶ final            generate.toy_draw      Rollouts      ○─○─│─●─○
stage 0                                                     ┊   │ │
  6 ★ score_answer ∥4  reward.toy_parity      Scored        ┊─●─○ │
  7 ± credit_answer    advantage.toy_centred  Credited      ┊─○─● │
stage 1                                                     ┊   │ │
  8 ★ score_final      reward.toy_parity      Scored        ┊─●─│─○
  9 ★ match_final      reward.toy_matches     Scored        ┊─○─│─●
 10 ▽ best             select.toy_best        Scored        ┊─●─│─○
 11 ± credit_final     advantage.toy_centred  Credited      ┊─○─│─●
 12 ■ update           update.toy_step                      ○─●─○─○
next round                                                    ┊
    ◇ policy           is update                            ──○

◇ carry   ⊙ source   ▶ generate   ⇄ exchange   ★ reward   ± advantage   ▽ select
■ update
● gives   ○ reads   │ rows   ┊ weights   ◇║ an exchange, open
∥4 starts with step 4 and runs beside it
"""


def drawn(graph: Graph, *, params: bool = False) -> Picture:
    return picture(compile_graph(graph), params=params)


def dense(nodes: int, seed: int) -> Graph:
    return read_document(parse_document(dense_yaml(nodes, seed=seed), file="dense.yaml")).graph


def edges_on_rails(shown: str) -> set[tuple[str, str]]:
    """Return the edges that a picture shows: a rail starts at ●, and each ○ below on it is a reader."""
    edges, owner, name = set(), dict[int, str](), ""
    for line in shown.splitlines():
        row = ROW.match(line)
        if row is not None:
            name = f"next {row[1]}" if row[2].startswith("is ") else row[1]
        for column, sign in enumerate(line):
            if sign == "○" and column > 20:
                edges.add((owner[column], name))
        owner |= {column: name for column, sign in enumerate(line) if sign == "●" and column > 20}
    return edges


def edges_of(graph: Graph) -> set[tuple[str, str]]:
    nexts = {(part.next.partition(".")[0], f"next {name}") for name, part in graph.carries.items() if part.next}
    return {(edge.origin, edge.reader) for edge in graph.edges()} | nexts


def test_the_toy_game_as_it_is_printed() -> None:
    assert text(drawn(toy_game())) == TOY


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_rails_of_shipped_games_are_their_edges(path: Path) -> None:
    graph = load(path)
    shown = text(drawn(graph))
    assert edges_on_rails(shown) == edges_of(graph)
    for params in (False, True):
        assert max(map(len, text(drawn(graph, params=params)).splitlines())) <= 80


@settings(max_examples=30)
@given(nodes=st.integers(12, 26), seed=st.integers(0, 1000))
def test_the_rails_of_any_game_are_its_edges(nodes: int, seed: int) -> None:
    graph = dense(nodes, seed)
    shown = text(drawn(graph), width=200)
    assert edges_on_rails(shown) == edges_of(graph)


@given(nodes=st.integers(12, 90), seed=st.integers(0, 1000), width=st.integers(40, 120))
@settings(max_examples=30)
def test_no_line_is_wider_than_the_terminal(nodes: int, seed: int, width: int) -> None:
    assert max(map(len, text(drawn(dense(nodes, seed)), width=width).splitlines())) <= width


def test_rails_that_do_not_fit_are_told_in_words() -> None:
    shown = text(drawn(dense(200, 0)))
    assert "●" not in shown
    assert "reads policy, tasks, met\n" in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_colours_add_nothing_but_colour() -> None:
    graph = load(SHIPPED[0])
    coloured = text(drawn(graph), colour=True)
    assert "\x1b[38;2;" in coloured
    assert re.sub(r"\x1b\[[\d;]*m", "", coloured) == text(drawn(graph))
