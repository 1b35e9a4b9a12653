"""Print the tree of a task: the rollouts that each rollout led to, with rewards and advantages."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from rich.console import Console

from genrl_graph.inspection.judged import RewardVerdict
from genrl_graph.inspection.text import line, number, say, short, truncated
from genrl_graph.inspection.transcripts import JudgedRollout, RolloutFilter, matching_rollouts
from genrl_graph.records.stored_run import StoredRun

EXCERPT = 32
"""Characters of a completion that a line of a tree shows."""
QUESTION = 200


@dataclass(slots=True)
class TaskTree:
    """The rollouts of a task in a round by id, each below the latest of those that it quotes."""

    task: str
    round: int
    rollouts: dict[str, JudgedRollout] = field(default_factory=dict)

    def children(self) -> Mapping[str, Sequence[str]]:
        """Return the ids below each id; those below "" quote none of the tree."""
        children: dict[str, list[str]] = {}
        for id, judged in self.rollouts.items():
            stage = _stage(judged)
            # quoted rows are of earlier stages; those of a hostile peer may quote each other in a circle
            parents = [each for each in self.parents(judged) if _stage(self.rollouts[each]) < stage]
            latest = max(parents, key=lambda each: _stage(self.rollouts[each]), default="")
            children.setdefault(latest, []).append(id)
        return children

    def parents(self, judged: JudgedRollout) -> list[str]:
        """Return the rollouts of this tree that a rollout quotes, each once."""
        return list(dict.fromkeys(id for id in judged.rollout.rows[0].get("parent_ids") or () if id in self.rollouts))

    def question(self) -> str:
        """Return the last message of the first rollout that quotes nothing, "" if it has none."""
        for judged in self.rollouts.values():
            row = judged.rollout.rows[0]
            if not row.get("parent_ids") and row.get("messages"):
                return str(row["messages"][-1]["content"])
        return ""


def print_trees(run: StoredRun, query: RolloutFilter, console: Console) -> None:
    """Print the trees of the first `limit` tasks that a query selects; raises `ParamError` for unknown names.

    A line has the id, node, reward, advantage, the value that `advantage.backup` backed up, and the start of the text.
    """
    trees = task_trees(run, query)
    for tree in trees[: query.limit]:
        values = _values(run, tree.round)
        say(console, (f"task {line(tree.task)}  round {tree.round}", "cyan"))
        if question := tree.question():
            say(console, line(truncated(question, QUESTION)))
        for guide, judged in _drawn(tree):
            row, verdict = judged.rollout.rows[0], judged.verdict
            parts = [line(judged.group), *([line(row["peer"])] if len(run.peers) > 1 else []), *_numbers(verdict)]
            parts += [f"value {number(values[id])}"] if (id := row["id"]) in values else []
            parts += [f"also quotes {len(others)}"] if (others := tree.parents(judged)[1:]) else []
            text = judged.rollout.gist
            excerpt = repr(line(text[:EXCERPT]) + ("..." if len(text) > EXCERPT else ""))
            say(console, guide, (short(row["id"]), "bold"), f"  {'  '.join(parts)}  ", (excerpt, "dim"))
        console.print()
    rollouts = sum(len(tree.rollouts) for tree in trees[: query.limit])
    say(console, f"{min(len(trees), query.limit)} of {len(trees)} tasks, {rollouts} rollouts")


def task_trees(run: StoredRun, query: RolloutFilter) -> list[TaskTree]:
    """Return the trees of the tasks that a query selects, in the order stored; all peers' rows of a task are one."""
    trees: dict[tuple[int, str], TaskTree] = {}
    for judged in matching_rollouts(run, replace(query, peer=None), with_exchanges=True):
        row = judged.rollout.rows[0]
        key = (row["round"], row["task_id"])
        tree = trees.setdefault(key, TaskTree(row["task_id"], row["round"]))
        tree.rollouts.setdefault(judged.rollout.name, judged)
    return list(trees.values())


def _drawn(tree: TaskTree) -> Iterator[tuple[str, JudgedRollout]]:
    """Yield the rollouts in the order of the tree, each with the lines before it."""
    children = tree.children()
    todo = _below("", children.get("", ()))
    while todo:
        prefix, is_last, id = todo.pop()
        yield f"{prefix}{'└─ ' if is_last else '├─ '}", tree.rollouts[id]
        todo += _below(prefix + ("   " if is_last else "│  "), children.get(id, ()))


def _below(prefix: str, ids: Sequence[str]) -> list[tuple[str, bool, str]]:
    return [(prefix, at == 0, id) for at, id in enumerate(reversed(ids))]


def _numbers(verdict: RewardVerdict) -> list[str]:
    reward = "no reward" if verdict.reward is None else f"reward {number(verdict.reward)}"
    advantage = verdict.advantage
    return [reward, *([] if advantage is None or advantage != advantage else [f"advantage {advantage:+.3f}"])]


def _values(run: StoredRun, round: int) -> dict[str, float]:
    """Return the values that `advantage.backup` gave rows from those that quote them, by row id."""
    backups = {name for name, part in run.graph.nodes.items() if part.type_name == "advantage.backup"}
    values: dict[str, float] = {}
    for group in run.groups:
        if group.endswith("/backup") and group.partition("/")[0] in backups:
            table = run.table(group, round).select(["id", "children", "value"])
            values |= {row["id"]: row["value"] for row in table.to_pylist() if row["children"]}
    return values


def _stage(judged: JudgedRollout) -> int:
    return int(judged.rollout.rows[0].get("stage", 0))
