"""`source.mix`: several sources in one, sampled by weight and, for a curriculum, by level."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
from pydantic import ConfigDict, Field, PrivateAttr, ValidationInfo, field_validator

from genrl_graph.contract.data_path import Portable, without_folders
from genrl_graph.contract.evaluation import Evaluation
from genrl_graph.contract.exact_numbers import ExactNumbers
from genrl_graph.contract.node import Node, Place, Source, Wire
from genrl_graph.edge_types.rollouts import Tasks
from genrl_graph.edge_types.task import Task
from genrl_graph.errors import DataError, named
from genrl_graph.nodes.source.data.members import SET_BY_MIX, member_source, raise_problems, source_fields
from genrl_graph.nodes.update.level import Level
from genrl_graph.seeds import substream


class MixMember(ExactNumbers):
    """One source of a mix: its type and params, its weight, and the lowest level at which it is sampled."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: str = Field(description="type of the source, such as source.hf_dataset")
    params: dict[str, Any] = Field(default={}, description="params of the source")
    weight: float = Field(
        default=1.0, gt=0, allow_inf_nan=False, description="share of the tasks, relative to the other members'"
    )
    level: int = Field(default=0, ge=0, description="least value of the input `level` at which the member is sampled")

    _source: Source = PrivateAttr()

    @property
    def source(self) -> Source:
        """The member's source, not yet placed in a graph."""
        return self._source

    def with_source(self, source: Source) -> "MixMember":
        """Return this member with its source and that source's params."""
        params = {name: value for name, value in source.plain_params().items() if name not in SET_BY_MIX}
        copy = self.model_copy(update={"params": params})
        copy._source = source
        return copy


def _without_folders(members: dict[str, Any]) -> dict[str, Any]:
    """Return the members with absolute paths of data files reduced to the file names."""
    fields = {name: source_fields(member["type"]) for name, member in members.items()}
    return {
        name: member | {"params": without_folders(fields[name], member.get("params", {}))}
        for name, member in members.items()
    }


class Mix(Source, name="mix"):
    """Provides `num_tasks` tasks per round; a multinomial draw by weight decides the number from each member.

    A member's tasks are sampled from the `num_tasks` tasks that it would provide in that round by itself, so a task
    repeats only when the member repeats it. Members with a `level` above the input `level` are left out. Ids are
    `<mix>/<member>/<key of the member>`. An evaluation uses held-out tasks of all members at any level, in proportion
    to their weights.
    """

    num_tasks: int = Field(default=8, ge=1, description="tasks per round, of all members together")
    members: Annotated[dict[str, MixMember], Portable(_without_folders)] = Field(
        min_length=1, description="the sources by name"
    )

    _evaluating: bool = PrivateAttr(default=False)
    _replacements: Mapping[str, Source] = PrivateAttr(default_factory=dict)

    @field_validator("members")
    @classmethod
    def _built(cls, members: dict[str, MixMember], info: ValidationInfo) -> dict[str, MixMember]:
        problems, built = [], {}
        for name, member in members.items():
            source, member_problems = member_source(name, member.type, member.params, info)
            problems += member_problems
            if source is not None:
                built[name] = member.with_source(source)
        raise_problems(problems)
        if min(member.level for member in members.values()) > 0:
            raise ValueError("no member has level 0, so a round at level 0 has no tasks; lower one")
        return built

    def check_inputs(self, inputs: Mapping[str, Wire]) -> Iterable[str]:
        """Report members with a level if no input `level` is wired: their levels would have no effect."""
        levels = [name for name, member in self.members.items() if member.level > 0]
        if levels and "level" not in inputs:
            yield f"members.{levels[0]} has a level, but no input `level` is read; carry a carry.level and read it"

    def data_paths(self) -> list[Path]:
        """Return the local files and folders that the members read."""
        return [path for member in self.members.values() for path in member.source.data_paths()]

    def check_data(self) -> Iterator[str]:
        """Report what is missing of the members' local data."""
        for name, member in self.members.items():
            yield from (f"members.{name}: {problem}" for problem in member.source.check_data())

    def prepare(self) -> None:
        """Prepare all members; errors name the member."""
        for name, source in self._sources().items():
            with named(f"members.{name}"):
                source.prepare()

    def prepare_to_resolve(self) -> None:
        """Prepare all members to resolve ids; errors name the member."""
        for name, source in self._sources().items():
            with named(f"members.{name}"):
                source.prepare_to_resolve()

    def run(self, level: Level | None = None, *, rng: np.random.Generator, round: int) -> Tasks:
        """Return the tasks of one round, one member after the other.

        Inputs:
            level: difficulty that unlocks members; without it all are sampled
        """
        sources = self._sources()
        counts = dict.fromkeys(sources) if self._evaluating else self._counts(level, rng, round)
        frames = []
        for name, count in counts.items():
            with named(f"members.{name}"):
                tasks = _run(sources[name], substream(rng, "member", name), round)
            frames.append(tasks if count is None else _sample(tasks, count, substream(rng, "of", name, round)))
        return Tasks.concat(frames)

    def resolve(self, task_id: str) -> Task:
        """Return the task of an id from its member; raises `DataError` for an unknown member or task."""
        node = self.place.node
        name, _, key = task_id.removeprefix(f"{node}/").partition("/")
        if not task_id.startswith(f"{node}/") or name not in self.members or not key:
            form = f"{node}/<member>/<key>; members: {', '.join(self.members)}"
            raise DataError(f"{node}: {task_id[:200]!r} is no task of this source; its ids are {form}")
        task = self._sources()[name].resolve(task_id)
        return replace(task, kind=task.kind or name)

    def evaluated(self, how: Evaluation) -> Self:
        """Return a copy whose members provide held-out tasks; raises `ParamError` for a member without any."""
        shares = self._shares(how.num_tasks or self.num_tasks)
        sources = {}
        for name, source in self._sources().items():
            with named(f"members.{name}"):
                evaluated = source.evaluated(replace(how, num_tasks=max(shares[name], 1)))
            if shares[name]:
                sources[name] = evaluated
        copy = self._with(sources)
        copy._evaluating = True
        return copy

    def dry(self) -> Node:
        """Return the same mix of its members' stand-ins for a dry run."""
        stand_ins = {name: source.dry() for name, source in self._sources().items()}
        return self._with({name: node for name, node in stand_ins.items() if isinstance(node, Source)})

    def _with(self, sources: Mapping[str, Source]) -> Self:
        copy = self.model_copy()
        copy._replacements = sources
        return copy

    def _sources(self) -> dict[str, Source]:
        place = self.place
        sources = self._replacements or {name: member.source for name, member in self.members.items()}
        return {
            name: source.placed(Place(f"{place.node}/{name}", place.stage, place.protocol))
            for name, source in sources.items()
        }

    def _counts(self, level: Level | None, rng: np.random.Generator, round: int) -> dict[str, int]:
        """Draw the number of tasks of each member from a multinomial distribution over the weights."""
        active = {n: m.weight for n, m in self.members.items() if level is None or m.level <= level.value}
        weights = np.array(list(active.values()))
        counts = substream(rng, "mix", round).multinomial(self.num_tasks, weights / weights.sum())
        return {name: int(count) for name, count in zip(active, counts, strict=True) if count}

    def _shares(self, total: int) -> dict[str, int]:
        """Split `total` by weight; the largest remainders get the tasks left over."""
        weights = np.array([member.weight for member in self.members.values()])
        exact = total * weights / weights.sum()
        shares = np.floor(exact).astype(int)
        shares[np.argsort(shares - exact, kind="stable")[: total - shares.sum()]] += 1
        return dict(zip(self.members, shares.tolist(), strict=True))


def _run(source: Source, rng: np.random.Generator, round: int) -> Tasks:
    resources = {"rng": rng, "round": round}
    kwargs = {name: resources[name] for name in source.signature.resources}
    tasks: Tasks = source.run(**kwargs)  # type: ignore[attr-defined]  # `member_source` checked the signature
    return tasks


def _sample(tasks: Tasks, count: int, rng: np.random.Generator) -> Tasks:
    if len(tasks) < count:
        raise DataError(f"gave {len(tasks)} tasks where {count} are drawn from it")
    return tasks.take(np.sort(rng.permutation(len(tasks))[:count]))
