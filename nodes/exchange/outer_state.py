"""`carry.outer`: the weights that peers had after their last average, and the momentum of its steps."""

from functools import cached_property
from pathlib import Path

import numpy as np

from genrl_graph.contract.node import Carry
from genrl_graph.contract.policy import Carried
from genrl_graph.errors import StoreError
from genrl_graph.nodes.exchange.outer_step import Vector
from genrl_graph.seeds import digest

FILE = "outer.safetensors"


class OuterState(Carried):
    """Weights after the last average and the outer momentum, float32 of one length; None before the first average.

    An average returns a new object.
    """

    mutable = False

    def __init__(self, weights: Vector | None = None, momentum: Vector | None = None) -> None:
        assert (weights is None) == (momentum is None)
        self.weights, self.momentum = weights, momentum

    @cached_property
    def start(self) -> str:
        """Digest of the weights, "" where there are none."""
        return "" if self.weights is None else digest((self.weights.tobytes(),))

    def save(self, folder: Path) -> None:
        """Write weights and momentum; an empty file of tensors where there are none."""
        from safetensors.numpy import save_file

        tensors = {"weights": self.weights, "momentum": self.momentum}
        save_file({name: values for name, values in tensors.items() if values is not None}, folder / FILE)

    def load(self, folder: Path) -> None:
        """Load the state in `folder`; raises `StoreError` if it holds none."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            saved = load_file(folder / FILE)
        except (OSError, ValueError, SafetensorError) as error:
            raise StoreError(f"{folder}: holds no state of an average: {type(error).__name__}: {error}") from error
        shapes = {name: (values.dtype, values.shape) for name, values in saved.items()}
        flat = all(dtype == np.float32 and len(shape) == 1 for dtype, shape in shapes.values())
        if shapes and (set(shapes) != {"weights", "momentum"} or not flat or len(set(shapes.values())) > 1):
            raise StoreError(f"{folder}: holds {sorted(saved)}, which are no weights and momentum of one length")
        self.weights, self.momentum = saved.get("weights"), saved.get("momentum")
        self.__dict__.pop("start", None)

    def digest(self) -> str:
        """Hex digest of weights and momentum."""
        return digest(("outer", self.start, b"" if self.momentum is None else self.momentum.tobytes()))


class OuterCarry(Carry, name="outer"):
    """The state of `exchange.average`: the weights after the last average and the outer momentum.

    It takes the memory and the disk of two copies of the trained weights, and is in every checkpoint.
    """

    def init(self, name: str, *, seed: int) -> OuterState:
        """Return the empty state of the first round."""
        return OuterState()
