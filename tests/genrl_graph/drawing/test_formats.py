"""All formats of all games: well-formed, self-contained, the same bytes every time, and safe for any text."""

import io
import json
import os
import re
import subprocess
import sys
import time
import zlib
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from dense import dense_yaml
from hostile_game import HOSTILE, hostile_game
from toys import toy_game

from genrl_graph import load
from genrl_graph.contract.node import KINDS
from genrl_graph.dag.schedule import Schedule, compile_graph
from genrl_graph.drawing.kinds import INK, MUTED, OTHER_STYLE, PAPER, STYLES, WEIGHTS
from genrl_graph.drawing.render import FORMATS, draw
from genrl_graph.graph_file.document import parse_document
from genrl_graph.graph_file.read import read_document

SHIPPED = sorted((Path(__file__).parents[3] / "graphs").rglob("*.yaml"))
SVG = "{http://www.w3.org/2000/svg}"


class Tags(HTMLParser):
    """Asserts that tags are closed in order, and collects the elements."""

    VOID = frozenset({"meta", "link", "input", "rect", "path"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: Counter[str] = Counter()
        self.links: list[str] = []
        self.data: dict[str, str] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen[tag] += 1
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.data[self.open[-1]] = self.data.get(self.open[-1], "") + data


def dense(nodes: int) -> Schedule:
    return compile_graph(read_document(parse_document(dense_yaml(nodes), file="dense.yaml")).graph)


def assert_well_formed(schedule: Schedule, format: str, contents: bytes) -> None:
    graph = schedule.graph
    names = {*graph.carries, *graph.nodes}
    if format == "svg":
        root = ElementTree.fromstring(contents)
        groups = [group for group in root.iter(f"{SVG}g") if "data-name" in group.attrib]
        assert {group.get("data-name") for group in groups} == names
        assert len(groups) == len(names)
        wires = {(g.get("data-from"), g.get("data-to")) for g in root.iter(f"{SVG}g") if "data-from" in g.attrib}
        assert wires >= {(edge.origin, edge.reader) for edge in graph.edges()}
    elif format == "html":
        page = Tags()
        page.feed(contents.decode())
        page.close()
        assert page.open == []
        assert page.seen["script"] == 2
        assert page.links == ["data:,"]
        head, _, rest = contents.partition(b'<script id="data" type="application/json">')
        urls = set(re.findall(rb"https?://[^\"' <]*", head + rest[rest.index(b"</script>") :]))  # data loads nothing
        assert urls <= {b"http://www.w3.org/2000/svg"}
    elif format == "png":
        image = pytest.importorskip("PIL.Image").open(io.BytesIO(contents))
        assert image.mode == "RGB", "opaque, so that it is readable on any ground"
        assert {image.getpixel(corner) for corner in ((0, 0), (image.width - 1, image.height - 1))} == {(255, 255, 255)}
    elif format == "pdf":
        shown = zlib.decompress(contents.partition(b"stream\n")[2].partition(b"\nendstream")[0]).decode()
        assert all(f"({name}) Tj" in shown for name in names)
    else:
        shown = contents.decode()
        assert all(name in shown for name in names)


@pytest.mark.parametrize("format", FORMATS)
def test_shipped_games_in_every_format(format: str) -> None:
    for path in SHIPPED:
        schedule = compile_graph(load(path))
        start = time.perf_counter()
        contents = draw(schedule, format)
        print(f"{format:8} {path.stem:28} {time.perf_counter() - start:6.3f} s {len(contents):8} bytes")
        assert_well_formed(schedule, format, contents)
        assert format == "png" or draw(schedule, format) == contents


@pytest.mark.parametrize("nodes", [30, 200])
@pytest.mark.parametrize("format", FORMATS)
def test_large_dense_games_in_every_format(format: str, nodes: int) -> None:
    schedule = dense(nodes)
    start = time.perf_counter()
    contents = draw(schedule, format)
    print(f"{format:8} {nodes:4} nodes {time.perf_counter() - start:6.3f} s {len(contents):8} bytes")
    assert_well_formed(schedule, format, contents)


def test_the_bytes_do_not_depend_on_the_process() -> None:
    code = (
        "import hashlib, sys; from genrl_graph import load; from genrl_graph.drawing.render import FORMATS, draw\n"
        "from genrl_graph.dag.schedule import compile_graph\n"
        "s = compile_graph(load(sys.argv[1]))\n"
        "print([hashlib.sha256(draw(s, f, params=True)).hexdigest() for f in FORMATS])"
    )
    outputs = set()
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", code, str(SHIPPED[0])]
        outputs.add(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
    assert len(outputs) == 1


@pytest.mark.parametrize("format", FORMATS)
def test_any_text_of_a_game_is_only_text(format: str) -> None:
    schedule = compile_graph(hostile_game())
    contents = draw(schedule, format, params=True)
    if format == "svg":
        assert not [element for element in ElementTree.fromstring(contents).iter() if element.tag.endswith("script")]
    if format == "html":
        page = Tags()
        page.feed(contents.decode())
        assert (page.open, page.seen["script"]) == ([], 2)
        data = json.loads(re.search(rb'<script id="data"[^>]*>(.*?)</script>', contents, re.DOTALL)[1])  # type: ignore[index]
        assert ["template", HOSTILE] in data["boxes"]["end"]["params"]
    if format == "mermaid":
        shown = contents.decode()
        assert "<script" not in shown
        assert "end_" in shown and "\n  end\n" in shown
    if format == "text":
        assert "\x1b" not in contents.decode()
        assert max(map(len, contents.decode().splitlines())) <= 80


def test_graphviz_reads_the_dot_of_every_game() -> None:
    pygraphviz = pytest.importorskip("pygraphviz")
    for schedule in [compile_graph(g) for g in (*map(load, SHIPPED), toy_game(), hostile_game())] + [dense(200)]:
        read = pygraphviz.AGraph(string=draw(schedule, "dot", params=True).decode())
        names = {*schedule.graph.carries, *schedule.graph.nodes}
        assert {str(node) for node in read.nodes() if not str(node).startswith("legend ")} == names
        edges = len(list(schedule.graph.edges())) + sum(p.next is not None for p in schedule.graph.carries.values())
        assert read.number_of_edges() == edges
        assert [str(s.name) for s in read.subgraphs()][:-1] == [f"cluster_stage{i}" for i in range(schedule.stages)]


def test_graphviz_lays_out_what_is_too_dense_for_its_splines() -> None:
    pygraphviz = pytest.importorskip("pygraphviz")
    contents = draw(dense(200), "dot").decode()
    assert "splines=polyline" in contents
    assert pygraphviz.AGraph(string=contents).draw(format="svg", prog="dot").count(b'class="edge"') > 300


def test_kinds_differ_in_shape_and_sign_and_texts_are_readable() -> None:
    assert {kind.kind for kind in KINDS} <= STYLES.keys()
    styles = [*STYLES.values(), OTHER_STYLE]
    assert len({style.shape for style in styles}) == len({style.sign for style in styles}) == len(styles)
    assert len({style.line for style in styles}) >= len(styles) - 1  # a carry and a fork of it are of one colour
    for style in styles:
        assert contrast(INK, style.fill) > 7 and contrast(MUTED, style.fill) > 4.5
        assert contrast(style.line, PAPER) > 3
    assert contrast(WEIGHTS, PAPER) > 4.5


def contrast(one: str, other: str) -> float:
    """Return the contrast ratio of WCAG 2.1, from 1 to 21."""

    def luminance(rgb: str) -> float:
        parts = [int(rgb[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)
