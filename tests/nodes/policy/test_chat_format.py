"""The params of policies that say how a chat becomes a prompt, in a graph file."""

from pathlib import Path

import pytest
from architectures import causal

from genrl_graph import GraphError, load
from genrl_graph.graph_file.dump import dump
from genrl_graph.nodes.policy.tiny_lm import TinyLM

TEMPLATE = "{% for m in messages %}[{{ m.content }}]{% endfor %}"
GAME = """\
graph: chat_format
version: 1
carry:
  policy: {type: policy.tiny_lm, params: {chat_template: %s, assistant_prefix: ">"}}
nodes:
  tasks: {type: source.list, params: {tasks: [{question: a, answer: b}]}}
  answer: {type: generate.answer, inputs: {tasks: tasks, policy: policy}}
"""


def test_a_file_of_a_template_is_read_beside_the_graph_and_recorded_as_its_text(tmp_path: Path) -> None:
    (tmp_path / "chat.jinja").write_text(TEMPLATE)
    (tmp_path / "game.yaml").write_text(GAME % "chat.jinja")
    graph = load(tmp_path / "game.yaml")
    declared = graph.carries["policy"].declared
    assert isinstance(declared, TinyLM)
    assert declared.chat_template == TEMPLATE
    policy = causal(declared.init("policy", seed=0))
    assert policy.decode(policy.render([{"role": "user", "content": "a"}]).tolist()) == "[a]>"
    (tmp_path / "chat.jinja").unlink()
    (tmp_path / "again.yaml").write_text(dump(graph))
    assert load(tmp_path / "again.yaml").carries["policy"].declared == declared


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("gone.jinja", "cannot read .*gone.jinja: No such file or directory; paths start at the graph file"),
        ("/etc/passwd", "is no template .without {{ or {%., and no file of one; such files end with .jinja"),
        ("binary.txt", "is no UTF-8 text; is it a chat template?"),
        ("large.txt", "has more than 1048576 bytes; is it a chat template?"),
    ],
)
def test_a_file_that_is_no_template_is_named(value: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00{")
    (tmp_path / "large.txt").write_bytes(b" " * (1 << 21))
    (tmp_path / "game.yaml").write_text(GAME % value)
    with pytest.raises(GraphError, match=message):
        load(tmp_path / "game.yaml")
