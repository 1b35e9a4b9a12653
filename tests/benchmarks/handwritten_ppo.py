"""PPO for CartPole as one writes it by hand in one file, to hold the nodes against."""

from typing import Any

import gymnasium
import numpy as np
import torch
from torch import nn
from torch.distributions import Categorical


class Agent(nn.Module):
    """An actor and a critic of two layers each."""

    def __init__(self) -> None:
        super().__init__()
        self.actor = nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 2))
        self.critic = nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1))


class Handwritten:
    """Plays whole episodes side by side and trains on them."""

    def __init__(self, agent: Agent, *, num_envs: int = 16, learning_rate: float = 1e-3) -> None:
        self.agent = agent
        self.envs = [gymnasium.make("CartPole-v1", disable_env_checker=True) for _ in range(num_envs)]
        self.optimizer = torch.optim.Adam(agent.parameters(), lr=learning_rate, eps=1e-5, fused=True)

    def play(self, first_seed: int) -> dict[str, Any]:
        """One episode of every environment, as flat arrays with the lengths of the episodes."""
        count = len(self.envs)
        seen: list[list[Any]] = [[] for _ in range(count)]
        taken: list[list[Any]] = [[] for _ in range(count)]
        left = np.zeros(count, np.float32)
        now = {at: env.reset(seed=first_seed + at)[0] for at, env in enumerate(self.envs)}
        while now:
            alive = list(now)
            observations = torch.from_numpy(np.stack([now[at] for at in alive]))
            with torch.no_grad():
                chances = Categorical(logits=self.agent.actor(observations))
                values = self.agent.critic(observations)[:, 0]
                actions = chances.sample()
                logprobs = chances.log_prob(actions)
            for at, action, logprob, value in zip(
                alive, actions.tolist(), logprobs.tolist(), values.tolist(), strict=True
            ):
                seen[at].append(now[at])
                after, reward, terminated, truncated, _ = self.envs[at].step(action)
                taken[at].append((action, logprob, value, reward))
                now[at] = after
                if terminated or truncated:
                    if truncated:
                        with torch.no_grad():
                            left[at] = float(self.agent.critic(torch.from_numpy(after[None]))[0, 0])
                    del now[at]
        columns = np.asarray([step for steps in taken for step in steps], np.float32)
        return {
            "observations": np.stack([observation for steps in seen for observation in steps]),
            "actions": columns[:, 0].astype(np.int64),
            "logprobs": columns[:, 1],
            "values": columns[:, 2],
            "rewards": columns[:, 3],
            "lengths": [len(steps) for steps in taken],
            "left": left,
        }

    def train(self, batch: dict[str, Any], *, epochs: int = 4, minibatch_size: int = 256) -> None:
        """GAE, then clipped steps."""
        advantages = gae(batch)
        count = len(advantages)
        observations = torch.from_numpy(batch["observations"])
        actions, old = torch.from_numpy(batch["actions"]), torch.from_numpy(batch["logprobs"])
        advantage = torch.from_numpy(advantages)
        targets = advantage + torch.from_numpy(batch["values"])
        for _ in range(epochs):
            for part in torch.randperm(count).tensor_split(max(1, round(count / minibatch_size))):
                chances = Categorical(logits=self.agent.actor(observations[part]))
                values = self.agent.critic(observations[part])[:, 0]
                ratio = (chances.log_prob(actions[part]) - old[part]).exp()
                scaled = advantage[part]
                scaled = (scaled - scaled.mean()) / (scaled.std() + 1e-8)
                surrogate = torch.min(ratio * scaled, ratio.clamp(0.8, 1.2) * scaled).mean()
                loss = -surrogate + 0.25 * ((values - targets[part]) ** 2).mean() - 0.0 * chances.entropy().mean()
                self.optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(self.agent.parameters(), 0.5)
                self.optimizer.step()


def gae(batch: dict[str, Any], *, gamma: float = 0.99, lam: float = 0.95) -> Any:
    """The advantages of all episodes, one after the other."""
    found, start = np.zeros_like(batch["rewards"]), 0
    for length, left in zip(batch["lengths"], batch["left"], strict=True):
        ahead, following = 0.0, left
        for at in range(start + length - 1, start - 1, -1):
            delta = batch["rewards"][at] + gamma * following - batch["values"][at]
            ahead = delta + gamma * lam * ahead
            found[at], following = ahead, batch["values"][at]
        start += length
    return found
