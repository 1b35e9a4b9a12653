"""Small real nodes for tests: numbers as tokens, a policy that is one integer. Also a script for `--import`."""

import json
import time
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import pyarrow as pa
from pydantic import Field

from genrl_graph import (
    Advantage,
    Carried,
    Carry,
    Coordinate,
    Credited,
    Fork,
    Frame,
    Generator,
    Graph,
    Log,
    PeerRollouts,
    Policy,
    PolicyCarry,
    R,
    Reward,
    Rollouts,
    Scored,
    Select,
    Source,
    Task,
    TaskBook,
    Tasks,
    Tensor,
    Update,
    credit,
    score,
)
from genrl_graph.errors import DataError
from genrl_graph.nodes.exchange.gather import Gather
from genrl_graph.seeds import digest, group_id, rollout_id


class Moves(Frame):
    """Steps on a board: text, a number, ragged numbers and an image."""

    columns = {"id": pa.string(), "value": pa.int64(), "path": pa.list_(pa.int32()), "board": Tensor(pa.float32())}


class ToyPolicy(Policy):
    """A policy that is one integer, added to what it draws."""

    def __init__(self, name: str, bias: int, version: int = 0) -> None:
        self.name, self.bias, self.version = name, bias, version

    def save(self, folder: Path) -> None:
        (folder / "toy.json").write_text(json.dumps([self.name, self.bias, self.version]))

    def load(self, folder: Path) -> None:
        self.name, self.bias, self.version = json.loads((folder / "toy.json").read_text())

    def digest(self) -> str:
        return digest(("toy", self.bias, self.version))

    def fork(self, name: str) -> Self:
        return type(self)(name, self.bias, self.version)


class Total(Carried):
    """A sum that every round adds to."""

    def __init__(self, value: int = 0) -> None:
        self.value = value

    def save(self, folder: Path) -> None:
        (folder / "total").write_text(str(self.value))

    def load(self, folder: Path) -> None:
        self.value = int((folder / "total").read_text())

    def digest(self) -> str:
        return digest((self.value,))


class Rule(Carried):
    """A value that no update changes in place."""

    mutable = False

    def save(self, folder: Path) -> None:
        (folder / "rule").touch()

    def load(self, folder: Path) -> None: ...

    def digest(self) -> str:
        return "rule"


class ToyPolicyCarry(PolicyCarry, name="toy"):
    """A policy that starts at `bias`, or where it is None at a number drawn from the seed."""

    bias: int | None = None

    def init(self, name: str, *, seed: int) -> ToyPolicy:
        return ToyPolicy(name, self.bias if self.bias is not None else seed % 7)


class TotalCarry(Carry, name="toy_total"):
    """A total."""

    start: int = 0

    def init(self, name: str, *, seed: int) -> Total:
        return Total(self.start)


class RuleCarry(Carry, name="toy_rule"):
    """A rule."""

    def init(self, name: str, *, seed: int) -> Rule:
        return Rule()


class Numbers(Source, name="toy_numbers"):
    """Asks for numbers."""

    num_tasks: int = Field(2, ge=1)
    high: int = Field(1000, ge=1)

    def run(self, *, rng: np.random.Generator, round: int) -> Tasks:
        keys = rng.integers(self.high, size=(round + 1, self.num_tasks))[round]
        tasks = [self.resolve(self.task_id(int(key))) for key in keys]
        return Tasks.from_rows(
            [{"id": t.id, "messages": t.messages, "answer": t.answer, "metadata": "{}"} for t in tasks]
        )

    def resolve(self, task_id: str) -> Task:
        key = task_id.removeprefix(f"{self.place.node}/")
        if not key.isdecimal():
            raise DataError(f"task {task_id!r}: {key!r} is no number")
        return Task(task_id, [{"role": "user", "content": f"Say {key}."}], key)


class Draw(Generator, name="toy_draw"):
    """Draws numbers; may see what peers drew."""

    num_generations: int = Field(2, ge=1)
    high: int = Field(100, ge=1)

    def run(
        self,
        tasks: Tasks,
        policy: ToyPolicy,
        seen: PeerRollouts | None = None,
        *,
        rng: np.random.Generator,
        log: Log,
        round: int,
        peer: str,
    ) -> Rollouts:
        rows = []
        for task in tasks.rows():
            parents = seen.of(task["id"]).values("id") if seen is not None else []
            prompt = np.array([len(parents), len(task["id"])], np.int32)
            where: dict[str, Any] = {
                "protocol": self.place.protocol,
                "peer": peer,
                "round": round,
                "node": self.place.node,
            }
            group = group_id(**where, task_id=task["id"], prompt_ids=prompt)
            for sample in range(self.num_generations):
                drawn = (rng.integers(self.high, size=rng.integers(1, 4)) + policy.bias).astype(np.int32)
                row_id = rollout_id(
                    **where,
                    task_id=task["id"],
                    parent_ids=parents,
                    sample=sample,
                    prompt_ids=prompt,
                    completion_ids=drawn,
                )
                rows.append(
                    {
                        "id": row_id,
                        "task_id": task["id"],
                        "group_id": group,
                        "parent_ids": parents,
                        "peer": peer,
                        "node": self.place.node,
                        "stage": self.place.stage,
                        "round": round,
                        "sample": sample,
                        "policy": policy.name,
                        "policy_version": policy.version,
                        "tokenizer_fingerprint": "toy",
                        "temperature": 1.0,
                        "messages": task["messages"],
                        "prompt_ids": prompt,
                        "completion_ids": drawn,
                        "completion_mask": [1] * len(drawn),
                        "logprobs": np.full(len(drawn), -0.5, np.float32),
                        "completion": " ".join(map(str, drawn)),
                        "finish_reason": "stop",
                        "error": "",
                    }
                )
        log.metric("tokens", sum(len(row["completion_ids"]) for row in rows))
        return Rollouts.from_rows(rows)


class Halves(NamedTuple):
    """The two halves of some rows."""

    low: Rollouts
    high: Rollouts


class Split(Select, name="toy_split"):
    """Parts the rows in two."""

    def run(self, rows: Rollouts) -> Halves:
        half = len(rows) // 2
        return Halves(rows.take(range(half)), rows.take(range(half, len(rows))))


class Parity(Reward, name="toy_parity"):
    """Pays for even first numbers and for short completions."""

    weight: float = 1.0

    def run(self, rollouts: R) -> Scored[R]:
        drawn = rollouts.ragged("completion_ids")
        even = [float(ids[0] % 2 == 0) for ids in drawn]
        return score(rollouts, {"even": even, "short": [float(len(ids) < 2) for ids in drawn]})


class Matches(Reward, name="toy_matches"):
    """Pays for the answer of the task; may stand behind another reward."""

    def run(self, rollouts: R, *, tasks: TaskBook) -> Scored[R]:
        answers = [tasks[task_id].answer for task_id in rollouts.values("task_id")]
        said = rollouts.values("completion")
        return score(rollouts, {"match": [float(a == s) for a, s in zip(answers, said, strict=True)]})


class Broken(Reward, name="toy_broken"):
    """Fails in one round at one peer."""

    round: int = 1
    peer: str = "peer0000"
    how: str = "raise"

    def run(self, rollouts: R, *, round: int, peer: str) -> Scored[R]:
        if (round, peer) == (self.round, self.peer):
            if self.how == "type":
                return rollouts
            raise ValueError("no idea\nwhat this is")
        return score(rollouts, {"x": np.zeros(len(rollouts))})


class BrokenDraw(Select, name="toy_broken_select"):
    """Raises what the project raises on purpose, or gives something else than it declares."""

    how: str = "data"

    def run(self, rows: Rollouts, *, log: Log) -> Rollouts:
        if self.how == "data":
            raise DataError("no such file")
        if self.how == "rows":
            log.rows("bad", {"a": [1], "b": [1, 2]})
        if self.how == "fact":
            log.fact("bad", {1, 2})
        return None if self.how == "none" else rows  # type: ignore[return-value]  # what it is there for


class Best(Select, name="toy_best"):
    """Keeps the best half."""

    def run(self, scored: Scored[R], *, log: Log) -> Scored[R]:
        order = np.argsort(-scored.numpy("reward"), kind="stable")[: max(1, len(scored) // 2)]
        log.metric("kept", len(order))
        log.fact("kept", [int(at) for at in order])
        log.rows("kept", {"place": [int(at) for at in order]})
        return scored.take(np.sort(order))


class Same(Select, name="toy_same"):
    """Does nothing."""

    def run(self, rows: R) -> R:
        return rows


class Slow(Select, name="toy_slow"):
    """Does nothing for a while."""

    seconds: float = 0.0

    def run(self, rows: R) -> R:
        time.sleep(self.seconds)
        return rows


class Named(Select, name="toy_named"):
    """Lays rows together in the order of the names that the graph gives them."""

    def run(self, rows: dict[str, Rollouts], more: list[Rollouts] | None = None) -> Rollouts:
        return Rollouts.concat([*rows.values(), *(more or [])])


class Centred(Advantage, name="toy_centred"):
    """Reward less its mean."""

    def run(self, scored: Scored[R]) -> Credited[R]:
        rewards = scored.numpy("reward")
        return credit(scored, rewards - rewards.mean())


class Step(Update, name="toy_step"):
    """Moves a policy by one for every good row."""

    rate: float = 1e-6

    def run(
        self, policy: ToyPolicy, credited: list[Credited[Rollouts]], reference: ToyPolicy | None = None, *, log: Log
    ) -> ToyPolicy:
        good = sum(int((rows.numpy("advantage") > 0).sum()) for rows in credited)
        policy.bias += good
        policy.version += 1
        log.rows("trained", {"rollout_id": [row for rows in credited for row in rows.values("id")]})
        log.metric("good", good)
        return policy


class Both(NamedTuple):
    """Two values, each the next version of the input of its name."""

    policy: ToyPolicy
    total: Total


class StepBoth(Update, name="toy_both"):
    """Moves a policy and a total."""

    def run(self, policy: ToyPolicy, total: Total, rows: Rollouts) -> Both:
        policy.version += 1
        total.value += len(rows)
        return Both(policy, total)


class Add(Update, name="toy_add"):
    """Counts rows."""

    def run(self, total: Total, rows: list[Rollouts]) -> Total:
        total.value += sum(map(len, rows))
        return total


class ReadTotal(Select, name="toy_read_total"):
    """Keeps as many rows as the total says, one at least."""

    def run(self, rows: R, total: Total) -> R:
        return rows.take(range(min(len(rows), 1 + total.value % 3)))


class Follow(Select, name="toy_follow"):
    """Reads a rule."""

    def run(self, rows: R, rule: Rule) -> R:
        return rows


class ToyFork(Fork, name="toy_fork"):
    """Copies a policy."""

    def run(self, policy: ToyPolicy) -> ToyPolicy:
        return policy.fork(self.place.node)


class Tell(Coordinate, name="toy_tell"):
    """Tells how many rows there were."""

    def run(self, rows: Rollouts, *, log: Log) -> None:
        log.fact("told", len(rows))


TOY_GAME = """\
graph: toy
version: 1
carry:
  policy: {type: policy.toy, params: {bias: 3}, next: update}
nodes:
  tasks: {type: source.toy_numbers, params: {num_tasks: 3}}
  answer: {type: generate.toy_draw, inputs: {tasks: tasks, policy: policy}}
  answers: {type: exchange.gather, inputs: {rows: answer}, params: {min_peers: 1}}
  score_answer: {type: reward.toy_parity, inputs: {rollouts: answer}}
  credit_answer: {type: advantage.toy_centred, inputs: {scored: score_answer}}
  final: {type: generate.toy_draw, inputs: {tasks: tasks, policy: policy, seen: answers}, params: {num_generations: 4}}
  score_final: {type: reward.toy_parity, inputs: {rollouts: final}}
  match_final: {type: reward.toy_matches, inputs: {rollouts: score_final}}
  best: {type: select.toy_best, inputs: {scored: match_final}}
  credit_final: {type: advantage.toy_centred, inputs: {scored: best}}
  update:
    type: update.toy_step
    inputs: {policy: policy, credited: [credit_answer, credit_final]}
    params: {rate: 1e-6}
"""


def toy_game() -> Graph:
    """The game of `TOY_GAME`, in Python."""
    g = Graph("toy")
    policy = g.carry("policy", ToyPolicyCarry(bias=3))
    tasks = g.add("tasks", Numbers(num_tasks=3))
    answer = g.add("answer", Draw(), tasks=tasks, policy=policy)
    answers = g.add("answers", Gather(min_peers=1), rows=answer)
    score_answer = g.add("score_answer", Parity(), rollouts=answer)
    credit_answer = g.add("credit_answer", Centred(), scored=score_answer)
    final = g.add("final", Draw(num_generations=4), tasks=tasks, policy=policy, seen=answers)
    score_final = g.add("score_final", Parity(), rollouts=final)
    match_final = g.add("match_final", Matches(), rollouts=score_final)
    best = g.add("best", Best(), scored=match_final)
    credit_final = g.add("credit_final", Centred(), scored=best)
    update = g.add("update", Step(rate=1e-6), policy=policy, credited=[credit_answer, credit_final])
    g.next_round(policy=update)
    return g
