"""A game whose texts are markup, control characters and quotes, to test that pictures show them as text."""

from genrl_graph import Graph
from genrl_graph.nodes.generate.answer import Answer
from genrl_graph.nodes.policy.tiny_lm import TinyLM
from genrl_graph.nodes.source.list import ListSource

HOSTILE = "</script><script>alert(1)</script><b>\"'&\\N{{ 1 }}\n--> ]]> \x00\x1b\u2028 é 漢 #quot; | ~"


def hostile_game() -> Graph:
    """Return a game with one generator, whose question and template are `HOSTILE`."""
    g = Graph("hostile")
    policy = g.carry("policy", TinyLM(alphabet="abc"))
    tasks = g.add("tasks", ListSource(tasks=[{"question": HOSTILE, "answer": "b"}]))
    g.add("end", Answer(template=HOSTILE, system="]]>"), tasks=tasks, policy=policy)
    return g
