"""`select.verified`: replay other peers' episodes and drop those that do not reproduce."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal

import numpy as np
from pydantic import Field, PrivateAttr

from genrl_graph.contract.node import Place, Select
from genrl_graph.contract.origins import RowOrigin
from genrl_graph.contract.policy import TextPolicy
from genrl_graph.contract.resources import Log
from genrl_graph.edge_types.frame import Frame
from genrl_graph.edge_types.rollouts import R, Scored
from genrl_graph.edge_types.task import Task, TaskBook
from genrl_graph.edge_types.trajectories import Trajectories
from genrl_graph.edge_types.turns import Turns
from genrl_graph.errors import NodeFailed
from genrl_graph.nodes.games.environment import Environment
from genrl_graph.nodes.games.environment_pool import GamePool
from genrl_graph.nodes.games.game import Game
from genrl_graph.nodes.games.timed_calls import TimedCalls
from genrl_graph.nodes.generate.acting.replay import MissingSeatError, replay_steps
from genrl_graph.nodes.generate.dialogue import DialogueGenerator
from genrl_graph.nodes.generate.speaking.episodes import Table
from genrl_graph.nodes.generate.speaking.replay import replay_turns
from genrl_graph.nodes.reward.scoring.authors import judge_by_author
from genrl_graph.nodes.worker.worker import Failure, OutOfTime

Verdict = bool | Failure


class Verified(Select, name="verified"):
    """Keeps own episodes, and other peers' episodes that a replay of their actions reproduces.

    The replay starts from the task of this peer's own source, and the environment must be a deterministic function of
    seed and actions. Of games of networks, observations, legal actions, rewards and the ending must match. Of
    dialogues, that is what each seat heard, the order of the seats, the wording of the prompts, the move in each
    completion, rewards and the ending; and the ids of the prompts, if `policy` has the peer's tokenizer. So peers must
    play dialogues with the same params that word prompts and read moves.

    An episode without the rows of one of its seats (an opponent played it) cannot be replayed; `unseen` decides whether
    it is kept. Failed episodes of others are dropped. Wire this node before rewards that add to those of the game.
    """

    unseen: Literal["drop", "keep"] = Field(default="drop", description="for episodes that lack the rows of a seat")
    tolerance: float = Field(default=1e-5, ge=0, description="largest deviation of observations and rewards")
    peer_seconds: float = Field(
        default=10.0,
        gt=0,
        description="seconds for the episodes of one other peer in a round; its other episodes are dropped",
    )

    _pool: GamePool[Game] = PrivateAttr(default_factory=lambda: GamePool(Environment.open))
    _table: Table = PrivateAttr(default_factory=lambda: Table(GamePool(Environment.open_text), TimedCalls()))

    def check_origins(self, origins: Mapping[str, Sequence[RowOrigin]]) -> Iterable[str]:
        """Report generators whose rows are no episodes of an environment."""
        for origin in origins.get("rows", ()):
            bases = [output.bound.base for output in origin.generator.signature.outputs.values()]
            if not any(issubclass(base, Trajectories | Turns) for base in bases):
                yield f"cannot replay the rows of {origin.name!r}: they are no Trajectories or Turns of an environment"

    def run(
        self, rows: Scored[R], policy: TextPolicy | None = None, *, tasks: TaskBook, peer: str, log: Log
    ) -> Scored[R]:
        """Return the selected rows in order; log the refuted episodes with the reason in the table `refuted`.

        Inputs:
            rows: whole episodes of this peer and of others
            policy: policy whose tokenizer the ids of dialogues' prompts are computed with
        """
        if len(rows) and not isinstance(rows, Trajectories | Turns):
            raise NodeFailed(f"cannot replay {type(rows).__name__}, which are no episodes of an environment")
        selected = np.ones(len(rows), dtype=bool)
        refuted: dict[str, list[str]] = {"id": [], "peer": [], "reason": []}
        authors, episodes = rows.values("peer"), rows.values(_episode_column(rows))
        others = [at for at, author in enumerate(authors) if author != peer]
        own = {
            (id, node)
            for id, node, author in zip(rows.values("task_id"), rows.values("node"), authors, strict=True)
            if author == peer
        }
        for task_id, node in own:
            if reason := self._unplayable(tasks[task_id], node):
                raise NodeFailed(reason)
        by_author = partial(judge_by_author, peer=peer, seconds=self.peer_seconds, log=log)
        for at, verdict in by_author(rows, others, partial(self._verify, rows, tasks, policy)).items():
            reason = verdict.reason if isinstance(verdict, Failure) else ""
            selected[at] = verdict is True
            if reason and episodes[at] not in refuted["id"]:
                for name, value in {"id": episodes[at], "peer": authors[at], "reason": reason}.items():
                    refuted[name].append(value)
        log.metric("kept", float(selected.mean()) if len(rows) else 0.0)
        log.metric("refuted", len(refuted["id"]))
        log.rows("refuted", refuted)
        return rows.where(selected)

    def _verify(
        self, rows: Frame, tasks: TaskBook, policy: TextPolicy | None, positions: list[int], until: float
    ) -> dict[int, Verdict]:
        """Return, by position, whether the row is kept, or how its episode deviates from the environment."""
        verdicts: dict[int, Verdict] = {}
        of_author = rows.take(positions)
        for at in of_author.positions(_episode_column(rows)).values():
            verdict = self._verdict(of_author.take(at), tasks, policy, until)
            verdicts |= dict.fromkeys([positions[within] for within in at], verdict)
        return verdicts

    def _verdict(self, episode: Frame, tasks: TaskBook, policy: TextPolicy | None, until: float) -> Verdict:
        """Replay an episode until a monotonic time; return whether it is kept, or how it deviates."""
        task = tasks[episode.values("task_id")[0]]
        left = until - time.monotonic()
        if left <= 0:
            return OutOfTime()
        if reason := self._unplayable(task, episode.values("node")[0]):
            return Failure(reason)
        try:
            if isinstance(episode, Turns):
                if "failed" in episode.values("ending"):
                    return False
                reason = self._replay_turns(episode, task, policy, left)
            else:
                assert isinstance(episode, Trajectories), "run refuses others"
                reason = self._replay_steps(episode, task, left)
        except MissingSeatError:
            return self.unseen == "keep"
        except Exception as error:  # third-party environment code may raise anything on another peer's actions
            # where the time has ended is no matter of the episode, and a resume must not measure it again
            return Failure(f"{type(error).__name__}: {error}") if time.monotonic() < until else OutOfTime()
        return Failure(reason) if reason else True

    def _replay_steps(self, episode: Trajectories, task: Task, seconds: float) -> str:
        environment = Environment.model_validate(task.metadata["environment"])
        game = self._pool.take(environment)
        replay = partial(replay_steps, episode, game, int(task.metadata["seed"]), tolerance=self.tolerance)
        reason = self._table.calls.call(replay, limit_s=seconds)
        self._pool.give_back(environment, game)
        return reason

    def _replay_turns(self, episode: Turns, task: Task, policy: TextPolicy | None, seconds: float) -> str:
        """Replay a dialogue by the rules of the own generator of its node."""
        node = episode.values("node")[0]
        generator = self._dialogue(node)
        if generator is None:
            return f"no generate.dialogue named {node[:40]!r} leads here"
        if policy is not None and set(episode.values("tokenizer_fingerprint")) != {policy.tokenizer_fingerprint}:
            policy = None
        rules = generator.placed(Place(node)).rules()
        rules = replace(rules, step_timeout_s=min(seconds, rules.step_timeout_s))
        room = policy.context_length - generator.max_new_tokens if policy is not None else 0
        return replay_turns(
            episode,
            task,
            self._table,
            rules,
            policy=policy,
            room=room,
            tolerance=self.tolerance,
            until=time.monotonic() + seconds,
        )

    def _dialogue(self, node: str) -> DialogueGenerator | None:
        """Return the own generator of dialogues of this name."""
        generator = next((o.generator for o in self.place.origins if o.name == node), None)
        return generator if isinstance(generator, DialogueGenerator) else None

    def _unplayable(self, task: Task, node: str) -> str:
        """Return why no episode can be played from a task by a node, "" if one can."""
        generator = self._dialogue(node)
        if generator is not None and generator.environment is not None:
            return ""
        return _unplayable(task)


def _episode_column(rows: Frame) -> str:
    """Return the column of episode ids; other rows, of which there are none, have ids of their own."""
    return rows.sample_column or "id"


def _unplayable(task: Task) -> str:
    """Return why no episode can be played from a task, "" if one can."""
    if "environment" in task.metadata and "seed" in task.metadata:
        return ""
    return f"task {task.id!r} names no environment and seed; wire a source.environment"
