"""Print the lineage of a rollout: its ancestors up to the task, updates that trained on it, rollouts that quote it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import reduce

import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console
from rich.padding import Padding
from rich.text import Text
from rich.tree import Tree

from genrl_graph.edge_types.frame import Frame
from genrl_graph.errors import ParamError
from genrl_graph.inspection.judged import RewardVerdicts, RolloutText, rollout_groups, rollout_texts
from genrl_graph.inspection.text import line, say, short, truncated
from genrl_graph.messages import counted, did_you_mean
from genrl_graph.records.stored_run import Rounds, StoredRun
from genrl_graph.records.write import EVAL_PREFIX

CHARACTERS = 32
QUESTION_CHARACTERS = 400


@dataclass(slots=True)
class LineageIndex:
    """The rollouts and episodes of a run by id; the rows of a round are read when first needed."""

    run: StoredRun
    groups: dict[str, type[Frame]]
    _rounds: dict[str, tuple[int, str]] = field(default_factory=dict)  # by id: its round and the group that has it
    _texts: dict[tuple[str, int], dict[str, RolloutText]] = field(default_factory=dict)
    _verdicts: dict[tuple[int, bool], RewardVerdicts] = field(default_factory=dict)

    @classmethod
    def of(cls, run: StoredRun) -> "LineageIndex":
        """Index the ids of all rollouts of a run."""
        index = cls(run, rollout_groups(run))
        for group, kind in index.groups.items():
            table = run.columns(group, ("id", "round"))
            for id, number in zip(table.column("id").to_pylist(), table.column("round").to_pylist(), strict=True):
                index._rounds.setdefault(kind.trajectory_id(id), (number, group))
        return index

    def ids(self) -> list[str]:
        """List the ids of all rollouts and episodes."""
        return list(self._rounds)

    def resolve(self, start: str) -> str:
        """Return the one id that begins with `start`, or the episode of the step `start`.

        Raises `ParamError` where there is none, or more than one.
        """
        matches = [id for id in self._rounds if id.startswith(start)] if start else []
        matches = matches or [
            id for kind in set(self.groups.values()) if (id := kind.trajectory_id(start)) in self._rounds
        ]
        if len(matches) == 1:
            return matches[0]
        if not matches:
            hint = did_you_mean(start, [id[: len(start)] for id in self._rounds]) if start else ""
            advice = hint or "; `genrl-graph rollouts` shows ids"
            raise ParamError(f"{self.run.folder}: no rollout {start!r} among {len(self._rounds)}{advice}")
        some = ", ".join(id[: len(start) + 4] for id in matches[:4])
        raise ParamError(f"{self.run.folder}: {len(matches)} rollouts start with {start!r}: {some}; write more of it")

    def rollout(self, id: str) -> tuple[RolloutText, str] | None:
        """Return a rollout and the group that holds it, None where the run does not have it."""
        if id not in self._rounds:
            return None
        number, group = self._rounds[id]
        if (group, number) not in self._texts:
            texts = rollout_texts(self.groups[group], self._read(group, number))
            self._texts[group, number] = {text.name: text for text in texts}
        return self._texts[group, number][id], group

    def verdict(self, rollout: RolloutText, group: str) -> str:
        """Return the reward and advantage of a rollout, as text."""
        row = rollout.rows[0]
        key = (row["round"], group.startswith(EVAL_PREFIX))
        if key not in self._verdicts:
            self._verdicts[key] = RewardVerdicts(self.run, row["round"], evaluation=key[1])
        return str(self._verdicts[key].combined(rollout.rows))

    def children(self, id: str) -> list[str]:
        """List the ids of the rows that quote a rollout, in the order in which they were stored."""
        children: dict[str, None] = {}
        for group, kind in self.groups.items():
            if "parent_ids" in kind.columns:
                table = self.run.columns(group, ("id", "parent_ids"))
                parents = table.column("parent_ids").combine_chunks()
                hits = pc.list_parent_indices(parents).filter(pc.equal(pc.list_flatten(parents), id))
                children |= dict.fromkeys(table.column("id").take(hits).to_pylist())
        return list(children)

    def _read(self, group: str, number: int) -> pa.Table:
        """Read the rows of a round; rows that were admitted late are in the records of a later round."""
        table = self.run.table(group, number)
        name_of = self.groups[group].trajectory_id
        ids = {id for id, where in self._rounds.items() if where == (number, group)}
        if ids <= {name_of(id) for id in table.column("id").to_pylist()}:
            return table
        later = [self.run.table(group, span) for span in self.run.spans(group, range(number, 2**31))]
        return pa.concat_tables([table, *(each.filter(pc.equal(each.column("round"), number)) for each in later)])


@dataclass(slots=True)
class _Branch:
    """A branch of the tree, with the ids that it repeats of branches above it."""

    tree: Tree
    repeated: list[str] = field(default_factory=list)
    leaf: Tree | None = None

    def repeat(self, id: str) -> None:
        """Add an id to the line of those that are shown above."""
        self.repeated.append(short(id))
        self.leaf = self.leaf or self.tree.add("")
        self.leaf.label = Text(f"{', '.join(self.repeated)}  (above)", style="dim")


def print_lineage(run: StoredRun, start: str, console: Console) -> None:
    """Print the task of a rollout, its ancestors as a tree, the updates that trained on it, and what quotes it."""
    index = LineageIndex.of(run)
    id = index.resolve(start)
    for task in tasks_of(index, id):
        console.print(task)
    console.print(ancestors(index, id))
    match = index.rollout(id)
    trained = list(training(run, [row["id"] for row in match[0].rows] if match else [id]))
    for text in trained:
        say(console, f"trained on by {text}")
    if not trained:
        say(console, "no update has recorded that it trained on it")
    children = index.children(id)
    say(console, f"quoted by {len(children)} rollouts" if children else "quoted by no rollout")
    for child in children:
        console.print(Padding(rollout_line(index, child), (0, 0, 0, 2)))


def tasks_of(index: LineageIndex, id: str) -> Iterator[Text]:
    """Yield a line for each task that a rollout and its ancestors are about: its id, and its question if it has one."""
    questions: dict[str, str] = {}
    for rollout, _ in lineage(index, id):
        row = rollout.rows[0]
        if not row.get("parent_ids") or row["task_id"] not in questions:  # a prompt that quotes nothing is the question
            asked = [message["content"] for message in row.get("messages") or () if message["role"] == "user"]
            questions[row["task_id"]] = asked[-1] if asked else ""
    for task, question in questions.items():
        shown = truncated(line(question), QUESTION_CHARACTERS)
        yield Text.assemble((f"task {line(task)}", "cyan"), f": {shown}" if shown else "")


def lineage(index: LineageIndex, id: str) -> Iterator[tuple[RolloutText, str]]:
    """Yield a rollout and all its ancestors that the run has, each once, with the groups that hold them."""
    seen, todo = {id}, [id]
    while todo:
        match = index.rollout(todo.pop())
        if match is None:
            continue
        yield match
        parents = [parent for parent in match[0].rows[0].get("parent_ids", []) if parent not in seen]
        seen.update(parents)
        todo += parents


def ancestors(index: LineageIndex, id: str) -> Tree:
    """Return a tree of a rollout, the rollouts that its prompt quotes, and so on; each is expanded once.

    What a branch repeats of the branches above it is one line of ids.
    """
    root = Tree("")
    seen: set[str] = set()
    todo = [(_Branch(root), id)]
    while todo:  # no recursion: rows of a hostile peer may quote each other in a circle or in a very long chain
        above, at = todo.pop()
        match = index.rollout(at)
        if at in seen:
            above.repeat(at)
            continue
        branch = _Branch(above.tree.add(rollout_line(index, at)))
        if match is not None:
            seen.add(at)
            todo += [(branch, parent) for parent in reversed(match[0].rows[0].get("parent_ids", []))]
    return root.children[0]


def rollout_line(index: LineageIndex, id: str) -> Text:
    """Return three lines: id, node, round, peer, policy version; reward and advantage; seed and start of the text."""
    match = index.rollout(id)
    if match is None:
        return Text(f"{short(id)}  is not in this run", style="red")
    rollout, group = match
    row, seed = rollout.rows[0], index.run.graph.run.seed
    parts = (seed, "eval" if group.startswith(EVAL_PREFIX) else row["round"], row["node"], row["peer"])
    policy = f"{line(row['policy'])} version {row['policy_version']}"
    where = f"  {line(group)}  round {row['round']}  {line(row['peer'])}  {policy}"
    stream = f"seed ({', '.join(line(str(part)) for part in parts)}), sample {row['sample']}"
    text = line(rollout.gist[:CHARACTERS])
    verdict = index.verdict(rollout, group)
    return Text.assemble((short(id), "bold"), f"{where}\n{verdict}\n", (f"{stream}  {text!r}", "dim"))


def training(run: StoredRun, ids: Sequence[str], *, rounds: Rounds = None) -> Iterator[str]:
    """Yield a line for each record of an update in `rounds` that it trained on a row.

    The steps of an episode share one line.
    """
    kinds = {name: part.type_name.partition(".")[0] for name, part in run.graph.nodes.items()}
    wanted = pa.array(ids, pa.string())
    for group in run.groups:
        node, _, name = group.partition("/")
        if name != "trained" or kinds.get(node) != "update":
            continue
        for span in run.spans(group, rounds, rows=65536):
            table = run.table(group, span)
            texts = [column for column in table.columns if column.type == pa.string()]
            hits = reduce(pc.or_, [pc.is_in(column, wanted) for column in texts])  # `id`, `chosen_id`, `rejected_id`
            rows = table.filter(hits)
            if len(ids) == 1:
                for row in rows.to_pylist():
                    shown = [(name, value) for name, value in row.items() if name not in ("round", "holder")]
                    values = ", ".join(f"{line(name)} {_value(value)}" for name, value in shown)
                    yield f"{line(node)}  round {row['round']}  {line(row['holder'])}  {values}"
            elif rows.num_rows:
                yield from _summed(node, rows)


def _summed(node: str, rows: pa.Table) -> Iterator[str]:
    """Yield a line per round and holder on the trained rows of one episode, with the means of their numbers."""
    numbers = [field.name for field in rows.schema if pa.types.is_floating(field.type)]
    means_of = rows.group_by(["round", "holder"]).aggregate([([], "count_all"), *((name, "mean") for name in numbers)])
    for row in means_of.to_pylist():
        means = "".join(f", mean {line(name)} {_value(row[f'{name}_mean'])}" for name in numbers)
        yield f"{line(node)}  round {row['round']}  {line(row['holder'])}  {counted(row['count_all'], 'row')}{means}"


def _value(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else line(str(value))[:16]
