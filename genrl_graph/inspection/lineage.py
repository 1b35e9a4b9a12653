"""Where a rollout came from, up to its task, and what became of it: training, and later rollouts that quote it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import reduce

import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from genrl_graph.edge_types.frame import Frame
from genrl_graph.errors import ParamError
from genrl_graph.inspection.judged import RewardVerdicts, RolloutText, rollout_groups, stories
from genrl_graph.inspection.text import line, say, short
from genrl_graph.messages import counted, did_you_mean
from genrl_graph.records.stored_run import StoredRun
from genrl_graph.records.write import EVAL_PREFIX

CHARACTERS = 60


@dataclass(slots=True)
class LineageIndex:
    """The rollouts and episodes of a run by id, read round by round as they are asked for."""

    run: StoredRun
    groups: dict[str, type[Frame]]
    _rounds: dict[str, tuple[int, str]] = field(default_factory=dict)  # of each id, its round and the group that has it
    _stories: dict[tuple[str, int], dict[str, RolloutText]] = field(default_factory=dict)
    _verdicts: dict[tuple[int, bool], RewardVerdicts] = field(default_factory=dict)

    @classmethod
    def of(cls, run: StoredRun) -> "LineageIndex":
        """The ids of all rollouts of a run."""
        family = cls(run, rollout_groups(run))
        for group, kind in family.groups.items():
            table = run.columns(group, ("id", "round"))
            for id, number in zip(table.column("id").to_pylist(), table.column("round").to_pylist(), strict=True):
                family._rounds.setdefault(kind.story(id), (number, group))
        return family

    def named(self, start: str) -> str:
        """The one id that starts so, or that this step belongs to; raises `ParamError` where there is none, or more."""
        found = [id for id in self._rounds if id.startswith(start)] if start else []
        found = found or [id for kind in set(self.groups.values()) if (id := kind.story(start)) in self._rounds]
        if len(found) == 1:
            return found[0]
        if not found:
            hint = did_you_mean(start, [id[: len(start)] for id in self._rounds]) if start else ""
            advice = hint or "; `genrl-graph rollouts` shows ids"
            raise ParamError(f"{self.run.folder}: no rollout {start!r} among {len(self._rounds)}{advice}")
        some = ", ".join(id[: len(start) + 4] for id in found[:4])
        raise ParamError(f"{self.run.folder}: {len(found)} rollouts start with {start!r}: {some}; write more of it")

    def story(self, id: str) -> tuple[RolloutText, str] | None:
        """A rollout and the group that holds it, None where the run does not have it."""
        if id not in self._rounds:
            return None
        number, group = self._rounds[id]
        if (group, number) not in self._stories:
            told = stories(self.groups[group], self._read(group, number))
            self._stories[group, number] = {story.name: story for story in told}
        return self._stories[group, number][id], group

    def verdict(self, story: RolloutText, group: str) -> str:
        """What was said of a rollout."""
        row = story.rows[0]
        key = (row["round"], group.startswith(EVAL_PREFIX))
        if key not in self._verdicts:
            self._verdicts[key] = RewardVerdicts(self.run, row["round"], evaluation=key[1])
        return str(self._verdicts[key].over(story.rows))

    def children(self, id: str) -> list[str]:
        """The rollouts that quote it, in the order in which they were stored."""
        found: dict[str, None] = {}
        for group, kind in self.groups.items():
            if "parent_ids" in kind.columns:
                table = self.run.columns(group, ("id", "parent_ids"))
                parents = table.column("parent_ids").combine_chunks()
                hits = pc.list_parent_indices(parents).filter(pc.equal(pc.list_flatten(parents), id))
                found |= dict.fromkeys(table.column("id").take(hits).to_pylist())
        return list(found)

    def _read(self, group: str, number: int) -> pa.Table:
        """The rows of a round; those that came late are in the records of a later one."""
        table = self.run.table(group, number)
        story = self.groups[group].story
        ids = {id for id, where in self._rounds.items() if where == (number, group)}
        if ids <= {story(id) for id in table.column("id").to_pylist()}:
            return table
        later = [self.run.table(group, span) for span in self.run.spans(group, range(number, 2**31))]
        return pa.concat_tables([table, *(each.filter(pc.equal(each.column("round"), number)) for each in later)])


def print_lineage(run: StoredRun, start: str, console: Console) -> None:
    """The rollout with its ancestors as a tree, the steps that trained on it, and the rollouts that quote it."""
    family = LineageIndex.of(run)
    id = family.named(start)
    console.print(ancestors(family, id), soft_wrap=True)
    found = family.story(id)
    trained = list(training(run, [row["id"] for row in found[0].rows] if found else [id]))
    for text in trained:
        say(console, f"trained on by {text}")
    if not trained:
        say(console, "no update has recorded that it trained on it")
    children = family.children(id)
    say(console, f"quoted by {len(children)} rollouts" if children else "quoted by no rollout")
    for child in children:
        console.print(Text("  ") + label(family, child), soft_wrap=True)


def ancestors(family: LineageIndex, id: str) -> Tree:
    """The rollout, below it those that its prompt quotes, and so on to the task; each is opened once."""
    root = Tree("")
    seen: set[str] = set()
    todo = [(root, id)]
    while todo:  # a peer may send rows that quote each other in a circle, or one another a thousand times
        above, at = todo.pop()
        found = family.story(at)
        if found is None or at in seen:
            above.add(label(family, at) + Text("  (above)" if found else ""))
            continue
        seen.add(at)
        branch, row = above.add(label(family, at)), found[0].rows[0]
        parents = row.get("parent_ids", [])
        if not parents:
            branch.add(Text(f"task {line(row['task_id'])}", style="cyan"))
        todo += [(branch, parent) for parent in reversed(parents)]
    return root.children[0]


def label(family: LineageIndex, id: str) -> Text:
    """One rollout in a line: id, node, round, peer, policy version, verdict, seed and the start of what happened."""
    found = family.story(id)
    if found is None:
        return Text(f"{short(id)}  is not in this run", style="red")
    story, group = found
    row, seed = story.rows[0], family.run.graph.run.seed
    parts = (seed, "eval" if group.startswith(EVAL_PREFIX) else row["round"], row["node"], row["peer"])
    policy = f"{line(row['policy'])} version {row['policy_version']}"
    where = f"  {line(group)}  round {row['round']}  {line(row['peer'])}  {policy}"
    stream = f"seed ({', '.join(line(str(part)) for part in parts)}), sample {row['sample']}"
    text = line(story.gist[:CHARACTERS])
    said = family.verdict(story, group)
    return Text.assemble((short(id), "bold"), where, f"  {said}  {stream}  ", (repr(text), "dim"))


def training(run: StoredRun, ids: Sequence[str]) -> Iterator[str]:
    """Where updates recorded that they trained on these rows, a line each; the steps of an episode are one line."""
    kinds = {name: part.type_name.partition(".")[0] for name, part in run.graph.nodes.items()}
    wanted = pa.array(ids, pa.string())
    for group in run.groups:
        node, _, name = group.partition("/")
        if name != "trained" or kinds.get(node) != "update":
            continue
        for span in run.spans(group, rows=65536):
            table = run.table(group, span)
            texts = [column for column in table.columns if column.type == pa.string()]
            hits = reduce(pc.or_, [pc.is_in(column, wanted) for column in texts])  # `id`, `chosen_id`, `rejected_id`
            rows = table.filter(hits)
            if len(ids) == 1:
                for row in rows.to_pylist():
                    told = {name: value for name, value in row.items() if name not in ("round", "holder")}
                    values = ", ".join(f"{line(name)} {_value(value)}" for name, value in told.items())
                    yield f"{line(node)}  round {row['round']}  {line(row['holder'])}  {values}"
            elif rows.num_rows:
                yield from _summed(node, rows)


def _summed(node: str, rows: pa.Table) -> Iterator[str]:
    """Rows of one episode by round and holder, with the means of their numbers."""
    numbers = [field.name for field in rows.schema if pa.types.is_floating(field.type)]
    found = rows.group_by(["round", "holder"]).aggregate([([], "count_all"), *((name, "mean") for name in numbers)])
    for row in found.to_pylist():
        means = "".join(f", mean {line(name)} {_value(row[f'{name}_mean'])}" for name in numbers)
        yield f"{line(node)}  round {row['round']}  {line(row['holder'])}  {counted(row['count_all'], 'row')}{means}"


def _value(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else line(str(value))[:16]
