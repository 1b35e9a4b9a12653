"""The library of nodes: importing this module registers every type that ships with the project."""

import genrl_graph.nodes.advantage.group
import genrl_graph.nodes.exchange.gather
import genrl_graph.nodes.generate.answer
import genrl_graph.nodes.generate.chat
import genrl_graph.nodes.generate.critique
import genrl_graph.nodes.generate.revise
import genrl_graph.nodes.policy.causal_lm
import genrl_graph.nodes.policy.fork
import genrl_graph.nodes.policy.tiny_lm
import genrl_graph.nodes.reward.choice
import genrl_graph.nodes.reward.function
import genrl_graph.nodes.reward.math
import genrl_graph.nodes.reward.reasoning_gym
import genrl_graph.nodes.reward.regex
import genrl_graph.nodes.select.nonzero_advantage
import genrl_graph.nodes.select.top
import genrl_graph.nodes.source.hf_dataset
import genrl_graph.nodes.source.listed
import genrl_graph.nodes.source.reasoning_gym
import genrl_graph.nodes.update.grpo  # noqa: F401
