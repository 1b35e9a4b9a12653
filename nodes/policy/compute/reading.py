"""Ways of calling a model that keep a row's log-probs a function of the weights and the row alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class LengthRule:
    """The row lengths that a model computes alike: all up to `border`, and those beyond it.

    With `each`, every length beyond the border is computed differently, as under dynamic NTK scaling; without it they
    are alike, as under LongRoPE (arXiv 2402.13753). No border means that the length of a row changes nothing.
    """

    border: int | None = None
    each: bool = False

    def key(self, length: int) -> int:
        """Return a number that is equal for lengths that are computed alike."""
        if self.border is None or length <= self.border:
            return 0
        return length if self.each else self.border + 1


@dataclass(frozen=True, slots=True)
class Reading:
    """The ways of calling a model that were found exact; by default all of them.

    `packs`: prefixes that training rows share are computed once. `shares_prompts`: those of sampled rows are, too.
    `pads`: training rows of other lengths are padded into one call. `pads_prompts`: prompts of other lengths are, too.
    `caches`: sampling feeds one token at a time to a cache. `recomputes`: activations can be recomputed in the backward
    pass. `limit` is the longest row for which all this holds, None without a limit. `volatile` names the classes of
    modules whose state a call changes; it is set back before each call.
    """

    packs: bool = True
    shares_prompts: bool = True
    pads: bool = True
    pads_prompts: bool = True
    caches: bool = True
    recomputes: bool = True
    lengths: LengthRule = LengthRule()
    limit: int | None = None
    volatile: frozenset[str] = frozenset()

    @property
    def whole_rows(self) -> bool:
        """True if a row must be read to its last token, although nothing is predicted after it."""
        return self.lengths.border is not None

    def groups(self, lengths: Sequence[int]) -> list[NDArray[np.int64]]:
        """Return the indices of training rows that may be in one call, for their lengths in tokens."""
        keys = [(self.lengths.key(length), 0 if self.pads else length) for length in lengths]
        return [np.flatnonzero([key == other for other in keys]) for key in sorted(set(keys))]

    def may_cross(self, prompt: int, steps: int) -> bool:
        """Return whether a prompt of this length may grow past a border within `steps` tokens."""
        return self.lengths.key(prompt) != self.lengths.key(prompt + steps)

    def prompt_groups(self, prompts: NDArray[np.int64], steps: int) -> list[NDArray[np.int64]]:
        """Return the indices of prompts that may be in one call, for their lengths in tokens.

        Prompts that may grow past a border are with those of their own length, so that all rows of a call cross
        together.
        """
        keys = [
            (crosses, length if crosses or not self.pads_prompts else 0, self.lengths.key(length))
            for length, crosses in ((int(length), self.may_cross(int(length), steps)) for length in prompts)
        ]
        return [np.flatnonzero([key == other for other in keys]) for key in sorted(set(keys))]

    def notes(self) -> list[str]:
        """Return what is slower than usual with this model, one phrase each."""
        slower = {
            "samples without a cache: every token reads its whole row again": self.caches,
            "samples prompts of one length at a time": self.pads_prompts or not self.caches,
            "reads training rows of one length at a time": self.pads,
            "keeps all activations: recomputing them would change gradients": self.recomputes,
        }
        notes = [note for note, exact in slower.items() if not exact]
        if self.limit is not None:
            notes.append(f"has a context of {self.limit} tokens: longer rows get other log-probs in each call")
        if self.lengths.border is not None:
            notes.append(f"reads rows again that grow past {self.lengths.border} tokens")
        return notes


EXACT = Reading()
"""Every way of calling the model is exact, as for a Llama with full attention."""
