"""Pictures of unfinished and broken graphs, and how a picture may look."""

import io
import re
import zlib
from pathlib import Path

import pytest
from PIL import Image

from genrl_graph import Graph, load
from genrl_graph.cli import run_command
from genrl_graph.drawing.kinds import WRONG
from genrl_graph.drawing.layout import SIZES, layout
from genrl_graph.drawing.picture import Look
from genrl_graph.drawing.render import FORMATS, picture_of, render
from genrl_graph.graph_file.document import parse_document
from genrl_graph.graph_file.read import Loaded, read_document
from genrl_graph.nodes.library import Answer, Gather, GroupAdvantage, Grpo, ListSource, RegexReward, Revise, TinyLM

BROKEN = """
graph: broken
version: 1
carry:
  policy: {type: policy.tiny_lm, next: updat}
nodes:
  tasks: {type: source.list, params: {tasks: [{question: a?, answer: b}]}}
  answer: {type: generate.answer, inputs: {tasks: tasks, policy: policy}, params: {temprature: 1}}
  final: {type: generate.revise, inputs: {tasks: tasks, answers: answer, critiques: critique_s, policy: policy}}
  score: {type: reward.regx, inputs: {rollouts: final}}
  update: {type: update.grpo, inputs: {policy: policy, credited: [score]}}
"""
CIRCLE = """
graph: circle
version: 1
nodes:
  a: {type: generate.answer, inputs: {tasks: b}}
  b: {type: select.top, inputs: {rows: a}}
"""
EMPTY = "graph: empty\nversion: 1\n"


def read(text: str) -> Loaded:
    return read_document(parse_document(text, file="game.yaml"))


@pytest.mark.parametrize("text", [BROKEN, CIRCLE, EMPTY], ids=["broken", "circle", "empty"])
@pytest.mark.parametrize("format", FORMATS)
def test_every_format_draws_what_is_there_and_says_what_is_wrong(text: str, format: str) -> None:
    loaded = read(text)
    contents = render(picture_of(loaded.graph, loaded.problems, params=True), format)
    if format in ("png", "pdf"):
        assert contents[:4] in (b"\x89PNG", b"%PDF")
        return
    shown = re.sub(r"[\s│]+", "", re.sub(r"<[^>]*>", "", contents.decode()).replace("&#x27;", "'").replace('\\"', '"'))
    for problem in loaded.problems if format in ("text", "mermaid") else loaded.problems[:1]:
        assert re.sub(r"\s+", "", str(problem))[:40] in shown
    for name in (*loaded.graph.nodes, *loaded.graph.carries):
        assert name in shown


def test_wrong_boxes_and_lines_are_red_and_missing_parts_are_drawn() -> None:
    loaded = read(BROKEN)
    drawn = picture_of(loaded.graph, loaded.problems)
    assert {name for name, box in drawn.boxes.items() if box.problems} == {"policy", "answer", "final", "score"}
    assert {name for name, box in drawn.boxes.items() if box.kind == "missing"} == {"updat", "critique_s"}
    wrong = {(line.origin, reader) for line in drawn.lines for reader in line.wrong}
    assert wrong == {("critique_s", "final"), ("answer", "final"), ("updat", "policy")}
    svg = render(drawn, "svg").decode()
    red = re.findall(rf'<path class="outline" [^>]*stroke="{WRONG}"', svg)
    assert len(red) >= 6 and svg.count(f'fill="{WRONG}"') > len(loaded.problems)


def test_the_command_draws_and_still_ends_as_check_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "broken.yaml").write_text(BROKEN)
    assert run_command(["draw", str(tmp_path / "broken.yaml"), "-o", str(tmp_path / "x.pdf")]) == 2
    assert (tmp_path / "x.pdf").read_bytes().startswith(b"%PDF")
    *problems, last = capsys.readouterr().err.splitlines()
    assert any("no node or carry named 'critique_s'" in line for line in problems)
    assert last == f"genrl-graph: {tmp_path / 'x.pdf'}: drawn all the same, what is wrong in red"
    assert run_command(["draw", str(tmp_path / "broken.yaml")]) == 2
    out, err = capsys.readouterr()
    assert "final ✗" in out and "named 'critique_s'" in out and err == ""


@pytest.fixture(scope="module")
def tiny() -> Graph:
    return load("tiny_multistage")


def test_title_legend_and_ground_can_be_left_out(tiny: Graph) -> None:
    plain = picture_of(tiny)
    bare = picture_of(tiny, look=Look(title=False, legend=False, transparent=True))
    svg = render(bare, "svg").decode()
    assert 'class="paper"' in render(plain, "svg").decode() and 'class="paper"' not in svg
    assert 'class="title"' not in svg and "<text" not in svg.partition('<g class="legend">')[2]
    assert layout(bare).height < layout(plain).height - 40
    for look, opacity in ((bare, 0), (plain, 255)):
        image = Image.open(io.BytesIO(render(look, "png"))).convert("RGBA")
        assert image.getchannel("A").getpixel((1, 1)) == opacity
    text = render(bare, "text").decode()
    assert "tiny_multistage" not in text and "● gives" not in text and "score_answer" in text


def test_a_pdf_has_the_texts_of_the_picture(tiny: Graph, tmp_path: Path) -> None:
    tiny.draw(tmp_path / "game.pdf")
    file = (tmp_path / "game.pdf").read_bytes()
    packed = file.partition(b"stream\n")[2].partition(b"\nendstream")[0]
    commands = zlib.decompress(packed).decode()
    shown = set(re.findall(r"\((.*)\) Tj", commands))
    assert {*tiny.nodes, *tiny.carries, "stage 2"} <= shown
    start = int(file.rpartition(b"startxref\n")[2].split()[0])
    assert file[start:].startswith(b"xref\n0 7\n")
    offsets = [int(line[:10]) for line in file[start:].splitlines()[3:9]]
    assert all(file[at:].startswith(b"%d 0 obj" % number) for number, at in enumerate(offsets, start=1))


def chain(stages: int) -> Graph:
    g = Graph("chain")
    policy = g.carry("policy", TinyLM())
    tasks = g.add("tasks", ListSource(tasks=[{"question": "a", "answer": "b"}]))
    rows, credits = g.add("a0", Answer(num_generations=4), tasks=tasks, policy=policy), []
    for stage in range(stages):
        if stage:
            met = g.add(f"g{stage}", Gather(min_peers=1), rows=rows)
            read = {"tasks": tasks, "policy": policy, "answers": met, "critiques": met}
            rows = g.add(f"a{stage}", Revise(num_generations=4), **read)
        score = g.add(f"s{stage}", RegexReward(pattern="a"), rollouts=rows)
        credits.append(g.add(f"c{stage}", GroupAdvantage(), scored=score))
    g.next_round(policy=g.add("update", Grpo(), policy=policy, credited=credits))
    return g


def test_a_long_chain_of_stages_wraps_and_its_frames_do_not_overlap() -> None:
    short, long = layout(picture_of(chain(4))), layout(picture_of(chain(12)))
    assert long.width < 2.5 * short.width and long.width < 3 * long.height
    frames = long.frames
    assert len({frame.y for frame in frames}) > 1
    for one in frames:
        for other in frames:
            apart = one.x + one.w <= other.x or other.x + other.w <= one.x
            assert one is other or apart or one.y + one.h <= other.y or other.y + other.h <= one.y
    for placed in long.boxes:
        stage = placed.box.stage
        if stage is not None:
            frame = frames[stage]
            assert frame.x < placed.x and placed.x + placed.w < frame.x + frame.w
            assert frame.y < placed.y and placed.y + placed.h < frame.y + frame.h


@pytest.mark.parametrize("name", ["tiny_multistage", "games/tic_tac_toe", "expert_iteration"])
def test_types_stay_inside_the_frame_of_their_stage(name: str) -> None:
    from genrl_graph.drawing.fonts import text_width

    drawn = layout(picture_of(load(name)))
    for text in (text for text in drawn.texts if text.style == "label"):
        width = text_width(text.text, SIZES["label"])
        left, right = (text.x - width, text.x) if text.anchor == "end" else (text.x, text.x + width)
        inside = [f for f in drawn.frames if f.x <= text.x <= f.x + f.w and f.y <= text.y <= f.y + f.h]
        assert all(frame.x < left and right < frame.x + frame.w for frame in inside), text.text


def test_params_with_equal_names_and_values_are_all_shown() -> None:
    g = Graph("equal")
    policy = g.carry("policy", TinyLM())
    tasks = g.add("tasks", ListSource(tasks=[{"question": "a", "answer": "b"}]))
    rows = g.add("answer", Answer(num_generations=4), tasks=tasks, policy=policy)
    for name in ("one", "two"):
        score = g.add(name, RegexReward(pattern="pattern", term="pattern"), rollouts=rows)
        g.add(f"credit_{name}", GroupAdvantage(), scored=score)
    for format in FORMATS:
        if format not in ("png", "pdf"):
            shown = render(picture_of(g, params=True), format).decode()
            assert shown.count("pattern: pattern") == shown.count("term: pattern") == 2, format
            if format == "html":
                assert shown.count('["pattern","pattern"]') == shown.count('["term","pattern"]') == 2
