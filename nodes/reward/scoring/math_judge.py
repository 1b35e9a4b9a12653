"""What the worker process of a maths reward runs; math-verify is imported here, outside any time limit."""

import math_verify

from genrl_graph.nodes.reward.scoring.answers import math_score

__all__ = ["math_score", "math_verify"]
