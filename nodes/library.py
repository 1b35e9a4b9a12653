"""The library of nodes: importing this module registers every type that ships with the package."""

from genrl_graph.nodes.advantage.backup import BackupAdvantage
from genrl_graph.nodes.advantage.gae import GaeAdvantage
from genrl_graph.nodes.advantage.group import GroupAdvantage
from genrl_graph.nodes.advantage.pool import PoolAdvantage
from genrl_graph.nodes.advantage.rae import RoleAdvantage
from genrl_graph.nodes.advantage.return_to_go import ReturnToGo
from genrl_graph.nodes.advantage.text_gae import TextGae
from genrl_graph.nodes.advantage.turns import TurnsAdvantage
from genrl_graph.nodes.coordinate.report import Report
from genrl_graph.nodes.coordinate.round import Round
from genrl_graph.nodes.coordinate.vote import Vote
from genrl_graph.nodes.eval.exploitability import Exploitability
from genrl_graph.nodes.exchange.average import Average
from genrl_graph.nodes.exchange.gather import Gather
from genrl_graph.nodes.exchange.outer_state import OuterCarry
from genrl_graph.nodes.generate.answer import Answer
from genrl_graph.nodes.generate.chat import Chat
from genrl_graph.nodes.generate.critique import Critique
from genrl_graph.nodes.generate.dialogue import DialogueGenerator
from genrl_graph.nodes.generate.diffusion import DiffusionGenerator
from genrl_graph.nodes.generate.play import Play
from genrl_graph.nodes.generate.revise import Revise
from genrl_graph.nodes.policy.actor_critic import ActorCriticCarry
from genrl_graph.nodes.policy.causal_lm import CausalLM
from genrl_graph.nodes.policy.checkpoint import Checkpoint
from genrl_graph.nodes.policy.diffusion import Diffusion
from genrl_graph.nodes.policy.endpoint import EndpointCarry
from genrl_graph.nodes.policy.fork import ForkPolicy
from genrl_graph.nodes.policy.lora import Lora
from genrl_graph.nodes.policy.q_network import QNetworkCarry
from genrl_graph.nodes.policy.tiny_lm import TinyLM
from genrl_graph.nodes.policy.vlm import Vlm
from genrl_graph.nodes.reward.choice import ChoiceReward
from genrl_graph.nodes.reward.function import FunctionReward
from genrl_graph.nodes.reward.image import ImageReward
from genrl_graph.nodes.reward.judge import Judge
from genrl_graph.nodes.reward.math import MathReward
from genrl_graph.nodes.reward.proposal import ProposalReward
from genrl_graph.nodes.reward.reasoning_gym import ReasoningGymReward
from genrl_graph.nodes.reward.regex import RegexReward
from genrl_graph.nodes.reward.tests import TestsReward
from genrl_graph.nodes.reward.weighted_sum import WeightedSum
from genrl_graph.nodes.select.continue_if import ContinueIf
from genrl_graph.nodes.select.nonzero_advantage import NonzeroAdvantage
from genrl_graph.nodes.select.swarm_sapo import SwarmSapo
from genrl_graph.nodes.select.top import Top
from genrl_graph.nodes.select.verified import Verified
from genrl_graph.nodes.source.code import CodeSource
from genrl_graph.nodes.source.environment import EnvironmentSource
from genrl_graph.nodes.source.hf_dataset import HfDataset
from genrl_graph.nodes.source.image_folder import ImageFolder
from genrl_graph.nodes.source.images import ImageData
from genrl_graph.nodes.source.list import ListSource
from genrl_graph.nodes.source.mix import Mix
from genrl_graph.nodes.source.proposed_code import ProposedCode
from genrl_graph.nodes.source.reasoning_gym import ReasoningGym
from genrl_graph.nodes.tool.function import FunctionTool
from genrl_graph.nodes.tool.python import PythonTool
from genrl_graph.nodes.update.baselines import BaselinesCarry, TrackBaselines
from genrl_graph.nodes.update.ddpo import Ddpo
from genrl_graph.nodes.update.dpo import Dpo
from genrl_graph.nodes.update.dqn import Dqn
from genrl_graph.nodes.update.grpo import Grpo
from genrl_graph.nodes.update.level import LevelCarry, RaiseLevel
from genrl_graph.nodes.update.ppo import Ppo
from genrl_graph.nodes.update.reinforce import Reinforce
from genrl_graph.nodes.update.replay_buffer import AddToReplay, ReplayCarry
from genrl_graph.nodes.update.sft import Sft
from genrl_graph.nodes.update.snapshots import SnapshotsCarry, TakeSnapshot
from genrl_graph.nodes.update.text_ppo import TextPpo

__all__ = [
    "ActorCriticCarry",
    "AddToReplay",
    "Answer",
    "Average",
    "BackupAdvantage",
    "BaselinesCarry",
    "CausalLM",
    "Chat",
    "Checkpoint",
    "ChoiceReward",
    "CodeSource",
    "ContinueIf",
    "Critique",
    "Ddpo",
    "DialogueGenerator",
    "Diffusion",
    "DiffusionGenerator",
    "Dpo",
    "Dqn",
    "EndpointCarry",
    "EnvironmentSource",
    "Exploitability",
    "ForkPolicy",
    "FunctionReward",
    "FunctionTool",
    "GaeAdvantage",
    "Gather",
    "GroupAdvantage",
    "Grpo",
    "HfDataset",
    "ImageData",
    "ImageFolder",
    "ImageReward",
    "Judge",
    "LevelCarry",
    "ListSource",
    "Lora",
    "MathReward",
    "Mix",
    "NonzeroAdvantage",
    "OuterCarry",
    "Play",
    "PoolAdvantage",
    "Ppo",
    "ProposalReward",
    "ProposedCode",
    "PythonTool",
    "QNetworkCarry",
    "RaiseLevel",
    "ReasoningGym",
    "ReasoningGymReward",
    "RegexReward",
    "Reinforce",
    "ReplayCarry",
    "Report",
    "ReturnToGo",
    "Revise",
    "RoleAdvantage",
    "Round",
    "Sft",
    "SnapshotsCarry",
    "SwarmSapo",
    "TakeSnapshot",
    "TestsReward",
    "TextGae",
    "TextPpo",
    "TinyLM",
    "Top",
    "TrackBaselines",
    "TurnsAdvantage",
    "Verified",
    "Vlm",
    "Vote",
    "WeightedSum",
]
