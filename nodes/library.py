"""The library of nodes: importing this module registers every type that ships with the project."""

from genrl_graph.nodes.advantage.backup import BackupAdvantage
from genrl_graph.nodes.advantage.group import GroupAdvantage
from genrl_graph.nodes.advantage.pool import PoolAdvantage
from genrl_graph.nodes.exchange.gather import Gather
from genrl_graph.nodes.generate.answer import Answer
from genrl_graph.nodes.generate.chat import Chat
from genrl_graph.nodes.generate.critique import Critique
from genrl_graph.nodes.generate.revise import Revise
from genrl_graph.nodes.policy.causal_lm import CausalLM
from genrl_graph.nodes.policy.checkpoint import Checkpoint
from genrl_graph.nodes.policy.fork import ForkPolicy
from genrl_graph.nodes.policy.lora import Lora
from genrl_graph.nodes.policy.tiny_lm import TinyLM
from genrl_graph.nodes.reward.choice import ChoiceReward
from genrl_graph.nodes.reward.function import FunctionReward
from genrl_graph.nodes.reward.judge import Judge
from genrl_graph.nodes.reward.math import MathReward
from genrl_graph.nodes.reward.reasoning_gym import ReasoningGymReward
from genrl_graph.nodes.reward.regex import RegexReward
from genrl_graph.nodes.reward.weighted_sum import WeightedSum
from genrl_graph.nodes.select.nonzero_advantage import NonzeroAdvantage
from genrl_graph.nodes.select.top import Top
from genrl_graph.nodes.source.hf_dataset import HfDataset
from genrl_graph.nodes.source.image_folder import ImageFolder
from genrl_graph.nodes.source.listed import ListSource
from genrl_graph.nodes.source.mix import Mix
from genrl_graph.nodes.source.reasoning_gym import ReasoningGym
from genrl_graph.nodes.update.dpo import Dpo
from genrl_graph.nodes.update.grpo import Grpo
from genrl_graph.nodes.update.level import LevelCarry, RaiseLevel
from genrl_graph.nodes.update.sft import Sft

__all__ = [
    "Answer",
    "BackupAdvantage",
    "CausalLM",
    "Chat",
    "Checkpoint",
    "ChoiceReward",
    "Critique",
    "Dpo",
    "ForkPolicy",
    "FunctionReward",
    "Gather",
    "GroupAdvantage",
    "Grpo",
    "HfDataset",
    "ImageFolder",
    "Judge",
    "LevelCarry",
    "ListSource",
    "Lora",
    "MathReward",
    "Mix",
    "NonzeroAdvantage",
    "PoolAdvantage",
    "RaiseLevel",
    "ReasoningGym",
    "ReasoningGymReward",
    "RegexReward",
    "Revise",
    "Sft",
    "TinyLM",
    "Top",
    "WeightedSum",
]
