"""Hide progress bars of libraries while a model is loaded; their warnings and errors still show."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partialmethod

from tqdm import tqdm
from transformers.utils import logging as transformers_logging


@contextmanager
def without_progress() -> Iterator[None]:
    """Disable the progress bars of transformers, of the hub client and of tqdm itself.

    transformers' own switch does not reach the tqdm bar under which it reads GGUF files, and tqdm reads `TQDM_DISABLE`
    only at import. Therefore this replaces tqdm's default.
    """
    enabled, original = transformers_logging.is_progress_bar_enabled(), tqdm.__init__
    transformers_logging.disable_progress_bar()
    tqdm.__init__ = partialmethod(original, disable=True)
    try:
        yield
    finally:
        tqdm.__init__ = original
        if enabled:
            transformers_logging.enable_progress_bar()
