"""Target of the worker process of a maths reward; imports math-verify outside the time limit of a call."""

import math_verify

from genrl_graph.nodes.reward.scoring.answers import math_score

__all__ = ["math_score", "math_verify"]
