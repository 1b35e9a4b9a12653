"""Generate games of any size in which many lines cross, to test layouts."""

import random

HEAD = """\
graph: dense
version: 1
carry:
  policy: {type: policy.tiny_lm, params: {alphabet: abc}, next: update}
nodes:
  tasks: {type: source.list, params: {tasks: [{question: a, answer: b}]}}
  first: {type: generate.answer, inputs: {tasks: tasks, policy: policy}, params: {num_generations: 2}}
  met: {type: exchange.gather, inputs: {rows: first}, params: {min_peers: 1}}
"""


def dense_yaml(nodes: int, *, seed: int = 0) -> str:
    """Return a valid game of `nodes` nodes, at least 12, whose blocks read exchanges and rewards of earlier blocks."""
    draw = random.Random(seed)
    lines: list[str] = []
    scored: list[str] = []
    credits: list[str] = []
    met = ["met"]

    def add(name: str, kind: str, params: str = "", **inputs: str) -> str:
        wires = ", ".join(f"{socket}: {ref}" for socket, ref in inputs.items())
        lines.append(f"  {name}: {{type: {kind}, inputs: {{{wires}}}{params and f', params: {{{params}}}'}}}")
        return name

    def add_reward(name: str, rows: str) -> str:
        scored.append(add(name, "reward.regex", f"pattern: a, term: {name}", rollouts=rows))
        return name

    block = 0
    while 3 + len(lines) + 8 < nodes:
        say, heard = f"say{block}", draw.choice(met)
        critique = add(say, "generate.critique", "num_generations: 2", tasks="tasks", answers=heard, policy="policy")
        met.append(add(f"met{block}", "exchange.gather", "min_peers: 1", rows=critique))
        for at in range(draw.randint(1, 4)):
            add_reward(f"judge{block}_{at}", critique if at else f"met{block}")
        total = add(f"sum{block}", "reward.weighted_sum", "others: 1.0", scored=f"[{', '.join(scored[-4:])}]")
        credits.append(add(f"credit{block}", "advantage.group", scored=total))
        block += 1
    add_reward("judge", "first")
    while 3 + len(lines) + 2 < nodes:
        credits.append(add(f"credit_more{len(lines)}", "advantage.group", scored=draw.choice(scored)))
    credits.append(add("credit_last", "advantage.pool", scored=f"[{', '.join(scored)}]"))
    add("update", "update.grpo", policy="policy", credited=f"[{', '.join(credits)}]")
    return HEAD + "\n".join(lines) + "\n"
