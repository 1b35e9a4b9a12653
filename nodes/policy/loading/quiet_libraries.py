"""Keeps the progress bars of libraries off the terminal while a model is loaded; their warnings and errors stay."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partialmethod

from tqdm import tqdm  # type: ignore[import-untyped]
from transformers.utils import logging as transformers_logging


@contextmanager
def without_progress() -> Iterator[None]:
    """Switch off the bars of transformers and the hub client, and those that libraries make with tqdm themselves.

    transformers reads GGUF files under a bar of tqdm that its own switch does not reach, and tqdm reads its switch
    `TQDM_DISABLE` only when it is imported: so its default is replaced.
    """
    shown, original = transformers_logging.is_progress_bar_enabled(), tqdm.__init__
    transformers_logging.disable_progress_bar()
    tqdm.__init__ = partialmethod(original, disable=True)
    try:
        yield
    finally:
        tqdm.__init__ = original
        if shown:
            transformers_logging.enable_progress_bar()
