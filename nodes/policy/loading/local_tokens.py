"""The tokenizer and context length of a model whose files are on this machine, without its weights."""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import snapshot_download
from transformers import AutoConfig, AutoTokenizer

from genrl_graph.errors import DataError
from genrl_graph.nodes.policy.compute.chat_tokens import ChatTokens
from genrl_graph.nodes.policy.compute.device import line_of
from genrl_graph.nodes.policy.loading.pretrained import context_of, locate, tokens_of

if TYPE_CHECKING:
    from genrl_graph.nodes.policy.causal_lm import CausalLM


def local_tokens(params: "CausalLM") -> tuple[ChatTokens, int] | None:
    """Return a model's tokenizer and context length, or None for a model that is not on this machine.

    Raises `DataError` for a folder that has no tokenizer that can be read.
    """
    if not _is_local(params):
        return None
    folder = locate(params)
    try:
        config, tokenizer = AutoConfig.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise DataError(f"{params.type_name}.model {params.model!r}: {line_of(error)}") from error
    return tokens_of(params, tokenizer), context_of(config, params.max_context)


def _is_local(params: "CausalLM") -> bool:
    """Return whether the model is a local folder or file, an installed package, or in the local cache of the hub."""
    source = params.model
    if source.startswith("package:"):
        package = source.removeprefix("package:")
        return package.isidentifier() and find_spec(package) is not None and find_spec("gguf") is not None
    if Path(source).expanduser().exists():
        return True
    try:
        snapshot_download(source, revision=params.revision, local_files_only=True)
    except (OSError, ValueError):
        return False
    return True
