"""`generate.dialogue`: language models play episodes of an environment in text, alone or against opponents."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PrivateAttr, field_validator

from genrl_graph.contract.declared import Declared
from genrl_graph.contract.evaluation import Evaluation
from genrl_graph.contract.node import Wire
from genrl_graph.contract.origins import Alike, Per
from genrl_graph.contract.policy import Carried, TextPolicy
from genrl_graph.contract.resources import Log
from genrl_graph.edge_types.rollouts import Scored, Tasks
from genrl_graph.edge_types.task import Task
from genrl_graph.edge_types.turns import Turns
from genrl_graph.errors import DataError, NodeFailed
from genrl_graph.nodes.games.environment import Environment
from genrl_graph.nodes.games.environment_pool import GamePool
from genrl_graph.nodes.games.text_game import NARRATOR, TextSpaces
from genrl_graph.nodes.games.timed_calls import TimedCalls
from genrl_graph.nodes.generate.acting.results import log_results
from genrl_graph.nodes.generate.acting.seating import (
    OpponentKind,
    Opponents,
    SeatingPlan,
    check_opponents,
    check_weights,
)
from genrl_graph.nodes.generate.prompting.examples import Examples
from genrl_graph.nodes.generate.prompting.prompts import AskedTask, check_template
from genrl_graph.nodes.generate.speaking.chats import SHOWN, Chat, Wording
from genrl_graph.nodes.generate.speaking.episodes import Dialogue, Rules, Table, play_dialogues
from genrl_graph.nodes.generate.speaking.moves import Illegal, Move, compiled, move_of
from genrl_graph.nodes.generate.speaking.players import DialoguePlayer, Mover, PolicyPlayer
from genrl_graph.nodes.generate.speaking.starts import start_of
from genrl_graph.nodes.generate.speaking.tool_params import ToolGenerator
from genrl_graph.nodes.generate.speaking.toolbox import log_calls
from genrl_graph.nodes.generate.speaking.turn_rows import restart_rows, turn_rows
from genrl_graph.nodes.source.environment import EnvironmentSource
from genrl_graph.nodes.update.snapshots import Snapshots

TEMPLATE = """\
{% for message in heard %}
{{ message.content }}
{% endfor %}
{% if legal %}
Legal moves: {{ legal | join(", ") }}
{% endif %}
"""


class DialogueGenerator(ToolGenerator, name="dialogue"):
    """Plays the episodes of `tasks` in text, `num_envs` at a time, and returns the turns of `policy` with rewards.

    At each turn a seat reads what it has not heard yet, put into words by `template` (sandboxed Jinja, which sees
    `task`, `heard`, `legal`, `seat` and `turn`), and completes the chat. `extract` finds its move in the completion.
    The chat of a seat grows token by token: what was sampled is never tokenised again (see `history`).

    In a game of several seats, the opponent of each episode is drawn from `opponents` by weight: `self` (the policy
    speaks for all seats, and the turns of all are returned), `random` (a random legal move), `perfect` (a random one of
    the best moves: for games of OpenSpiel that can be solved, and own games that say them), `policy` (the one wired as
    `opponent`) or `snapshots` (one drawn from the wired pool; self-play while the pool is empty). The policy takes the
    next seat in each episode. Evaluations use `eval_opponents`.

    An episode is truncated after `max_turns` turns of a seat, or when a prompt no longer fits. It fails if the
    environment raises, takes longer than `step_timeout_s`, or returns what no game can; a failed episode is one failed
    row with its reason. An episode that a server loses begins again, and the table `restarts` says why.

    A seat with `tools`, or in an environment with tools of its own, may call them instead of moving. A turn of calls is
    a row like any other, and no move: its results are what the seat hears in its next turn, and so part of the prompt,
    which is never trained. Malformed calls, unknown tools, wrong arguments and errors are messages to the policy, too,
    and are counted.
    """

    environment: Environment | None = Field(
        default=None,
        description="environment that plays each task of another source, such as question, or a class of kind trl; "
        "null: that of source.environment",
    )
    system: str = Field(default="", description="Jinja template of the system message of a seat; empty: none")
    examples: Examples = ()
    template: str = Field(
        default=TEMPLATE,
        description="Jinja template of the message that tells a seat what it heard and which moves are legal",
    )
    extract: str = Field(
        default=r"\s*(.*\S)\s*",
        description="regular expression of the move in a completion: the first group of the last match; by default the "
        "whole completion",
    )
    illegal: Illegal = "forfeit"
    illegal_reward: float = Field(
        default=-1.0,
        allow_inf_nan=False,
        description="reward of a turn whose move is illegal, with forfeit and random; the other seats get none for it",
    )
    opponents: Opponents = Field(default={"self": 1.0}, description="who plays the other seats, by weight")
    eval_opponents: Opponents = Field(default={"random": 1.0}, description="who plays the other seats in evaluations")
    num_generations: int = Field(default=1, ge=1, description="times that each episode is played")
    num_envs: int = Field(default=16, ge=1, description="episodes that are played concurrently")
    max_turns: int = Field(default=32, ge=1, description="turns of one seat after which an episode is truncated")
    step_timeout_s: float = Field(
        default=60.0,
        gt=0,
        le=86400,
        description="seconds in which the environment must begin, or answer a move or call",
    )

    session_mb: int = Field(
        default=1024,
        ge=0,
        description="memory of a policy for keys and values of chats between turns, so that each turn reads only what "
        "is new; 0: every turn reads its whole prompt",
    )

    _evaluating: bool = PrivateAttr(default=False)
    _table: Table = PrivateAttr(default_factory=lambda: Table(GamePool(Environment.open_text), TimedCalls()))

    @field_validator("opponents", "eval_opponents")
    @classmethod
    def _weights(cls, weights: Opponents) -> Opponents:
        return check_weights(weights)

    @field_validator("template", "system")
    @classmethod
    def _readable(cls, template: str) -> str:
        check_template(template, SHOWN)
        return template

    @field_validator("extract")
    @classmethod
    def _pattern(cls, pattern: str) -> str:
        try:
            compiled(pattern)
        except re.error as error:
            raise ValueError(f"{pattern!r} is no regular expression: {error}") from error
        return pattern

    @property
    def group_size(self) -> int:
        """Return `num_generations`."""
        return self.num_generations

    def alike(self, per: Per) -> Alike | None:
        """Return the param by which all episodes of a task are alike, or a prompt has one turn.

        After the first turn no two episodes have the same prompts.
        """
        if self.num_generations == 1 and per in ("seat", "prompt"):
            return Alike("a single episode", "num_generations", 1, "to 2 or more")
        if per == "prompt" and self.max_turns > 1:
            instead = "to 1, or compare episodes with advantage.turns"
            return Alike("a single turn", "max_turns", self.max_turns, instead)
        return None

    def check_inputs(self, inputs: Mapping[str, Wire]) -> Iterable[str]:
        """Yield a problem for each opponent that is named but not wired, or wired but not named."""
        return check_opponents({"opponents": self.opponents, "eval_opponents": self.eval_opponents}, inputs)

    def check_parts(self, parts: Mapping[str, Declared]) -> Iterable[str]:
        """Yield a problem if the environment of the source, or of this node, does not play its tasks in text."""
        source = parts.get("tasks")
        of_source = source.environment if isinstance(source, EnvironmentSource) else None
        if of_source is not None and self.environment is not None:
            yield f"plays {self.environment}, but its source names {of_source}; leave one out"
        environment = of_source or self.environment
        if environment is None:
            return
        try:
            described = environment.describe()
        except DataError as error:
            if of_source is None:
                yield str(error)
            return  # the source raises its own before a policy is made
        if not isinstance(described, TextSpaces):
            yield f"{environment} has {described}, not text; play it with generate.play"
        elif of_source is None and not described.plays_tasks:
            yield f"{environment} plays no tasks of another source; wire a source.environment that names it"
        elif self.opponents.get("perfect", 0) or self.eval_opponents.get("perfect", 0):
            try:
                environment.prove_perfect_play()
            except DataError as error:
                yield str(error)

    def check_carries(self, carries: Mapping[str, Carried]) -> Iterable[str]:
        """Yield a problem for each policy whose chat template cannot be continued token by token."""
        for socket, carried in carries.items():
            if isinstance(carried, TextPolicy):
                try:
                    self.prove_chats(carried)
                except DataError as error:
                    yield f"`{socket}`: {error}"

    def evaluated(self, how: Evaluation) -> Self:
        """Return a copy that plays against `eval_opponents`, with the same seats in every evaluation."""
        settings = {"num_generations": how.num_generations, "temperature": how.temperature}
        changed = {name: value for name, value in settings.items() if value is not None}
        copy = self.model_copy(update={"opponents": self.eval_opponents, **changed})
        copy._evaluating = True
        return copy

    def dry(self) -> Self:
        """Return a copy for dry play, where canned replies are illegal moves: random ones are played in their place."""
        return self.model_copy(update={"illegal": "random"}) if self.illegal == "forfeit" else self

    def run(
        self,
        tasks: Tasks,
        policy: TextPolicy,
        opponent: TextPolicy | None = None,
        snapshots: Snapshots | None = None,
        *,
        rng: np.random.Generator,
        log: Log,
        round: int,
        peer: str,
    ) -> Scored[Turns]:
        """Play all episodes; return the turns of the policy's seats in task order, and log results by opponent.

        Raises `NodeFailed` if a task names no environment in text.

        Inputs:
            tasks: episodes to play, each an environment and a seed
            policy: policy that plays, and whose turns are returned
            opponent: policy of the other seats in episodes drawn for `policy`
            snapshots: pool from which the opponent is drawn in episodes drawn for `snapshots`
        """
        seating = self._seating(policy, opponent, snapshots, rng)
        rows = tasks.rows("id", "messages", "answer", "metadata")
        planned = [(start_of(_task(row), self.environment), at) for row in rows for at in range(self.num_generations)]
        first = 0 if self._evaluating else round * len(planned)
        episodes = []
        for number, (start, sample) in enumerate(planned, start=first):
            seats = seating.seats(_seats(start.environment), number)
            episodes.append(Dialogue(start.task, sample, start.environment, start.seed, seats, start.row))
        with ExitStack() as kept:
            for reader in self._readers(episodes):
                kept.enter_context(reader.keeping(self.session_mb * 2**20))
            play_dialogues(episodes, self._table, self.rules(), num_envs=self.num_envs, rng=rng)
        log_results(log, episodes)
        self._report(log, episodes)
        restarts = restart_rows(self.place, episodes, round=round, peer=peer)
        if restarts["episode"]:
            log.metric("restarts", len(restarts["episode"]))
            log.rows("restarts", restarts)
        return turn_rows(self.place, policy, episodes, sampling=self._sampling, round=round, peer=peer)

    def prompt(
        self, policy: TextPolicy, task: AskedTask, seat: int, turn: int, heard: str, legal: Sequence[str]
    ) -> NDArray[np.int32]:
        """Return the ids of the prompt of one turn in a game that shows its whole state at each turn.

        Raises `NodeFailed` if it leaves no room for a completion.
        """
        chat = Chat(policy, self._wording(), task, turns=turn)
        ids = chat.ask(seat, [{"role": NARRATOR, "content": heard}], legal).ids
        if policy.counts_tokens and len(ids) > (room := self._room(policy)):
            raise NodeFailed(f"the prompt of {heard!r} has {len(ids)} tokens, but at most {room} fit")
        return ids

    def spoken(self, policy: TextPolicy, move: str, legal: Sequence[str]) -> NDArray[np.int32]:
        """Return the ids of a completion that says a legal move and nothing else.

        Raises `NodeFailed` if `extract` does not find the move in it, or it has more tokens than a completion may have.
        """
        read = move_of(move, legal, pattern=self.extract, illegal="pass_on", rng=np.random.default_rng(0))
        if read != Move(move):
            raise NodeFailed(
                f"extract {self.extract!r} does not find the legal move {move!r} in a completion of it alone"
            )
        ids = policy.encode(move, ended=False)
        if policy.counts_tokens and len(ids) > self.max_new_tokens:
            raise NodeFailed(f"the move {move!r} has {len(ids)} tokens, but max_new_tokens is {self.max_new_tokens}")
        return ids if len(ids) >= self.max_new_tokens else policy.encode(move, ended=True)

    def _wording(self) -> Wording:
        return Wording(self.system, self.examples, self.template, self.history, self.place.node)

    def _readers(self, episodes: list[Dialogue]) -> list[TextPolicy]:
        """Return the policies whose chats grow, each once."""
        if self.history != "sampled" or self.max_turns == 1 or not self.session_mb:
            return []
        players = (player for episode in episodes for player in episode.seats.players)
        return list({id(p.policy): p.policy for p in players if isinstance(p, PolicyPlayer)}.values())

    def rules(self) -> Rules:
        """Return the rules by which episodes of this node are played."""
        moves = (self.extract, self.illegal, self.illegal_reward)
        return Rules(self._wording(), *moves, self.max_turns, self.step_timeout_s, self.tool_rules(), self.environment)

    def _seating(
        self, policy: TextPolicy, opponent: TextPolicy | None, snapshots: Snapshots | None, rng: np.random.Generator
    ) -> SeatingPlan[DialoguePlayer]:
        members = snapshots.members if snapshots is not None else ()
        pool = [member for member in members if isinstance(member, TextPolicy)]
        if len(pool) < len(members):
            raise NodeFailed("the pool of snapshots holds networks, which do not speak")
        others: dict[OpponentKind, list[DialoguePlayer]] = {
            "random": [Mover("random")],
            "perfect": [Mover("perfect")],
            "policy": [self._player(opponent)] if opponent is not None else [],
            "snapshots": [self._player(member) for member in pool],
        }
        return SeatingPlan(self._player(policy), others, self.opponents, rng=rng)

    def _player(self, policy: TextPolicy) -> PolicyPlayer:
        return PolicyPlayer(policy, self._sampling, self.max_batch_tokens, self._room(policy))

    def _report(self, log: Log, episodes: list[Dialogue]) -> None:
        """Log what the runner does not compute from the rows."""
        turns = [turn for episode in episodes for turn in episode.turns]
        log_calls(log, turns)
        log.metric("turns", sum(episode.moves for episode in episodes))
        if turns:
            log.metric("prompt_tokens", float(np.mean([len(turn.asked.ids) for turn in turns])))
            log.metric("illegal", float(np.mean([not turn.legal for turn in turns])))
        endings = [{turn.ending for turn in episode.turns} for episode in episodes if not episode.error]
        if endings:
            log.metric("truncated_episodes", float(np.mean(["truncated" in ending for ending in endings])))
        logprobs = [turn.completion.logprobs for turn in turns if len(turn.completion.ids)]
        if logprobs:
            log.metric("entropy", -float(np.mean(np.concatenate(logprobs))))


def _task(row: Mapping[str, Any]) -> Task:
    metadata = json.loads(row["metadata"]) if row["metadata"] else {}
    return Task(row["id"], row["messages"], row["answer"], metadata)


def _seats(environment: Environment) -> int:
    try:
        return environment.text_spaces().seats
    except DataError as error:
        raise NodeFailed(str(error)) from error
