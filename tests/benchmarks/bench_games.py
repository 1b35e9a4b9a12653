"""Games beyond text: the nodes of CartPole against PPO written by hand in one file, step for step."""

import time
from collections.abc import Callable
from typing import Any

import torch
from handwritten_ppo import Agent, Handwritten
from measure import Row, report

from genrl_graph import Log
from genrl_graph.nodes.advantage.gae import GaeAdvantage
from genrl_graph.nodes.games.environment import Environment
from genrl_graph.nodes.generate.play import Play
from genrl_graph.nodes.policy.actor_critic import ActorCriticCarry
from genrl_graph.nodes.source.environment import EnvironmentSource
from genrl_graph.nodes.update.ppo import Ppo
from genrl_graph.seeds import stream

CARTPOLE, EPISODES, TIMES, WARM_UP = Environment(id="CartPole-v1"), 16, 8, 15
FASTEST = 1 / 0.9
"""Our seconds to those of the hand: at least 0.9 of its speed."""


def test_steps_and_updates() -> None:
    torch.set_num_threads(1)
    policy: Any = ActorCriticCarry(environment=CARTPOLE).init("policy", seed=0)
    source, play, credit = EnvironmentSource(environment=CARTPOLE, num_episodes=EPISODES), Play(), GaeAdvantage()
    update = Ppo(learning_rate=1e-3)

    def ours(round: int) -> Any:
        tasks = source.run(rng=stream("tasks"), round=round)
        return play.run(tasks, policy, rng=stream("play", round), log=Log(), round=round, peer="peer0000")

    def train(rows: Any, round: int) -> None:
        update.run(policy, [credit.run(rows, log=Log())], rng=stream(round), log=Log(), round=round, peer="peer0000")

    for round in range(WARM_UP):
        train(ours(round), round)
    agent = Agent()
    agent.load_state_dict(_of_agent(policy.model.state_dict()))
    hand = Handwritten(agent)
    hand.train(hand.play(0), epochs=1)
    played: dict[str, list[float]] = {"ours": [], "hand": []}
    trained: dict[str, list[float]] = {"ours": [], "hand": []}
    for number in range(TIMES):
        rows, seconds = _timed(ours, WARM_UP + number)
        played["ours"].append(seconds / len(rows))
        batch, seconds = _timed(hand.play, 1000 * number)
        played["hand"].append(seconds / len(batch["actions"]))
        trained["ours"].append(_timed(train, rows, number)[1] / len(rows))
        trained["hand"].append(_timed(hand.train, batch)[1] / len(batch["actions"]))
    by_hand = Row("a step by hand", played["hand"]), Row("training on a step by hand", trained["hand"])
    report(
        "games",
        f"CartPole: {EPISODES} episodes side by side, PPO of 4 epochs, {1 / by_hand[0].seconds:,.0f} steps a second",
        [
            by_hand[0],
            Row("a step of generate.play", played["ours"], by_hand[0], at_most_ratio=FASTEST),
            by_hand[1],
            Row("advantage.gae and update.ppo on it", trained["ours"], by_hand[1], at_most_ratio=FASTEST),
        ],
    )


def _timed(call: Callable[..., Any], *arguments: object) -> tuple[Any, float]:
    """Return the result of a call and its CPU seconds; the games run in one thread."""
    started = time.process_time()
    result = call(*arguments)
    return result, time.process_time() - started


def _of_agent(weights: dict[str, Any]) -> dict[str, Any]:
    """Our names of weights as those of the agent: layers 0, 2 and 4."""
    found = {}
    for name, tensor in weights.items():
        _, head, *place, kind = name.split(".")
        layer = "4" if place == ["1"] else place[-1]
        found[f"{head}.{layer}.{kind}"] = tensor
    return found
