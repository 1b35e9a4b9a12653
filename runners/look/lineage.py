"""Where a rollout came from, up to its task, and what became of it: training, and later rollouts that quote it."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import reduce

import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from genrl_graph.errors import ParamError
from genrl_graph.joined import EVAL
from genrl_graph.reading import StoredRun
from genrl_graph.registry import did_you_mean
from genrl_graph.runners.look.judged import Row, Verdicts, rollout_groups
from genrl_graph.runners.look.text import line, say, short

CHARACTERS = 60


@dataclass(slots=True)
class Family:
    """The rollouts of a run by id, read round by round as they are asked for."""

    run: StoredRun
    groups: list[str]
    _rounds: dict[str, tuple[int, str]] = field(default_factory=dict)  # of each id, its round and the group that has it
    _rows: dict[tuple[str, int], dict[str, Row]] = field(default_factory=dict)
    _verdicts: dict[tuple[int, bool], Verdicts] = field(default_factory=dict)

    @classmethod
    def of(cls, run: StoredRun) -> "Family":
        """The ids of all rollouts of a run."""
        family = cls(run, rollout_groups(run))
        for group in family.groups:
            table = run.columns(group, ("id", "round"))
            for id, number in zip(table.column("id").to_pylist(), table.column("round").to_pylist(), strict=True):
                family._rounds.setdefault(id, (number, group))
        return family

    def named(self, start: str) -> str:
        """The one id that starts so; raises `ParamError` where there is none, or more."""
        found = [id for id in self._rounds if id.startswith(start)] if start else []
        if len(found) == 1:
            return found[0]
        if not found:
            hint = did_you_mean(start, [id[: len(start)] for id in self._rounds]) if start else ""
            advice = hint or "; `genrl-graph rollouts` shows ids"
            raise ParamError(f"{self.run.folder}: no rollout {start!r} among {len(self._rounds)}{advice}")
        some = ", ".join(id[: len(start) + 4] for id in found[:4])
        raise ParamError(f"{self.run.folder}: {len(found)} rollouts start with {start!r}: {some}; write more of it")

    def row(self, id: str) -> tuple[Row, str] | None:
        """A rollout and the group that holds it, None where the run does not have it."""
        if id not in self._rounds:
            return None
        number, group = self._rounds[id]
        if (group, number) not in self._rows:
            self._rows[group, number] = {row["id"]: row for row in self._read(group, number)}
        return self._rows[group, number][id], group

    def verdict(self, row: Row, group: str) -> str:
        """What was said of a rollout."""
        key = (row["round"], group.startswith(EVAL))
        if key not in self._verdicts:
            self._verdicts[key] = Verdicts(self.run, row["round"], evaluation=key[1])
        return str(self._verdicts[key].of(row))

    def children(self, id: str) -> list[str]:
        """The rollouts that quote it, in the order in which they were stored."""
        found: dict[str, None] = {}
        for group in self.groups:
            table = self.run.columns(group, ("id", "parent_ids"))
            parents = table.column("parent_ids").combine_chunks()
            hits = pc.list_parent_indices(parents).filter(pc.equal(pc.list_flatten(parents), id))
            found |= dict.fromkeys(table.column("id").take(hits).to_pylist())
        return list(found)

    def _read(self, group: str, number: int) -> list[Row]:
        """The rows of a round; those that came late are in the records of a later one."""
        rows: list[Row] = self.run.table(group, number).to_pylist()
        ids = {id for id, where in self._rounds.items() if where == (number, group)}
        if ids <= {row["id"] for row in rows}:
            return rows
        for span in self.run.spans(group, range(number, 2**31)):
            table = self.run.table(group, span)
            rows += table.filter(pc.equal(table.column("round"), number)).to_pylist()
        return rows


def print_lineage(run: StoredRun, start: str, console: Console) -> None:
    """The rollout with its ancestors as a tree, the steps that trained on it, and the rollouts that quote it."""
    family = Family.of(run)
    id = family.named(start)
    console.print(ancestors(family, id), soft_wrap=True)
    trained = list(training(run, id))
    for node, row in trained:
        told = {name: value for name, value in row.items() if name not in ("round", "holder")}
        values = ", ".join(f"{line(name)} {_value(value)}" for name, value in told.items())
        say(console, f"trained on by {line(node)}  round {row['round']}  {line(row['holder'])}  {values}")
    if not trained:
        say(console, "no update has recorded that it trained on it")
    children = family.children(id)
    say(console, f"quoted by {len(children)} rollouts" if children else "quoted by no rollout")
    for child in children:
        text = Text("  ") + label(family, child)
        console.print(text, soft_wrap=True)


def ancestors(family: Family, id: str) -> Tree:
    """The rollout, below it those that its prompt quotes, and so on to the task; each is opened once."""
    root = Tree("")
    seen: set[str] = set()
    todo = [(root, id)]
    while todo:  # a peer may send rows that quote each other in a circle, or one another a thousand times
        above, at = todo.pop()
        found = family.row(at)
        if found is None or at in seen:
            above.add(label(family, at) + Text("  (above)" if found else ""))
            continue
        seen.add(at)
        branch = above.add(label(family, at))
        if not found[0]["parent_ids"]:
            branch.add(Text(f"task {line(found[0]['task_id'])}", style="cyan"))
        todo += [(branch, parent) for parent in reversed(found[0]["parent_ids"])]
    return root.children[0]


def label(family: Family, id: str) -> Text:
    """One rollout in a line: id, node, round, peer, policy version, verdict, seed and the start of its completion."""
    found = family.row(id)
    if found is None:
        return Text(f"{short(id)}  is not in this run", style="red")
    row, group = found
    seed = family.run.graph.run.seed
    parts = (seed, "eval" if group.startswith(EVAL) else row["round"], row["node"], row["peer"])
    policy = f"{line(row['policy'])} version {row['policy_version']}"
    where = f"  {line(group)}  round {row['round']}  {line(row['peer'])}  {policy}"
    stream = f"seed ({', '.join(line(str(part)) for part in parts)}), sample {row['sample']}"
    text = line(row["completion"][:CHARACTERS])
    return Text.assemble((short(id), "bold"), where, f"  {family.verdict(row, group)}  {stream}  ", (repr(text), "dim"))


def training(run: StoredRun, id: str) -> Iterator[tuple[str, Row]]:
    """The rows in which updates recorded that they trained on a rollout, with the node."""
    kinds = {name: part.type_name.partition(".")[0] for name, part in run.graph.nodes.items()}
    for group in run.groups:
        node, _, name = group.partition("/")
        if name != "trained" or kinds.get(node) != "update":
            continue
        for span in run.spans(group, rows=65536):
            table = run.table(group, span)
            texts = [column for column in table.columns if column.type == pa.string()]
            hits = reduce(pc.or_, [pc.equal(column, id) for column in texts])  # `id`, `chosen_id`, `rejected_id`
            yield from ((node, row) for row in table.filter(hits).to_pylist())


def _value(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else line(str(value))[:16]
