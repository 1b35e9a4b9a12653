"""Leave rows that the length limit cut out of training."""

from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from genrl_graph.edge_types.rollouts import Rollouts

MaskTruncated = Annotated[
    bool,
    Field(
        description="leave rows that max_new_tokens cut (finish reason length) out of the loss and its means "
        "(arXiv 2503.14476)"
    ),
]


def truncated(rows: Rollouts) -> NDArray[np.bool_]:
    """Return, per row, True if the length limit ended its completion."""
    return np.asarray([finish == "length" for finish in rows.values("finish_reason")], dtype=bool)
