"""Load pretrained models into live policies: locate them, choose device and precision, share loads among peers."""

import json
import math
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakValueDictionary

import torch
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # whichever httpx the hub client uses
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, ProcessorMixin

from genrl_graph.errors import DataError, ParamError, named
from genrl_graph.long_work import long_work, tell
from genrl_graph.nodes.policy.compute.activation_checkpointing import GB
from genrl_graph.nodes.policy.compute.chat_tokens import ChatTokens
from genrl_graph.nodes.policy.compute.device import gains_from_bfloat16, line_of, pick_device
from genrl_graph.nodes.policy.compute.handle import CausalPolicy
from genrl_graph.nodes.policy.compute.quiet_libraries import without_progress
from genrl_graph.nodes.policy.compute.trainable import Training
from genrl_graph.nodes.policy.engine.sampler import sampler_of
from genrl_graph.nodes.policy.loading.checked_folder import check_folder
from genrl_graph.nodes.policy.loading.checked_model import check_size, check_vocabulary, check_weights
from genrl_graph.nodes.policy.loading.gguf_model import gguf_folder
from genrl_graph.nodes.policy.loading.package_model import package_folder

if TYPE_CHECKING:
    from genrl_graph.nodes.policy.causal_lm import CausalLM

_HUB_TIMEOUT_S = 10.0
_MODEL_FILES = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]
_OTHER_FILES = ["*/*", "consolidated*"]  # weights in other formats, and the same weights once more

# Live policies by their params: while one still has its pretrained weights, further peers copy it instead of loading.
_handles: "WeakValueDictionary[str, CausalPolicy]" = WeakValueDictionary()


def pretrained_policy(name: str, params: "CausalLM") -> CausalPolicy:
    """Return a policy with its own copy of the pretrained weights."""
    key = json.dumps(params.model_dump(mode="json", exclude={"engine"}), sort_keys=True)
    loaded, engine = _handles.get(key), sampler_of(params, adapts=False)
    if loaded is not None and loaded.pristine:
        copy = loaded.fork(name)
        copy.engine = engine
        return copy
    device = pick_device(params.device)
    model, tokenizer = load_pretrained(params)
    handle = CausalPolicy(
        name,
        model.to(device),
        tokens_of(params, tokenizer),
        context=context_of(cast(Any, model).config, params.max_context),
        training=training_of(params, device),
    )
    handle.engine = engine
    probe(handle, where=_where(params))
    handle.add_critic(params.critic, where=_where(params))
    _handles[key] = handle
    return handle


def probe(policy: CausalPolicy, *, where: str) -> None:
    """Find out how the model may be called, and tell what is slower; raises `DataError` if it cannot be played."""
    with named(where):
        reading = policy.reading
    policy.context_length = min(policy.context_length, reading.limit or policy.context_length)
    for note in (*reading.notes(), *policy.tokens.notes()):
        tell(f"{where}: {note}")


def tokens_of(params: "CausalLM", tokenizer: Any) -> ChatTokens:
    """Wrap a tokenizer, with the chat template of the params if they have one."""
    return ChatTokens.of(params, tokenizer, where=_where(params))


def training_of(params: "CausalLM", device: torch.device) -> Training:
    """Return the training settings of the params on a device."""
    bfloat16 = gains_from_bfloat16(device) if params.compute_dtype == "auto" else params.compute_dtype == "bfloat16"
    return Training(
        weight_decay=params.weight_decay,
        betas=params.betas,
        bfloat16=bfloat16,
        activation_bytes=_activation_bytes(params),
        share_prefixes=params.share_prefixes,
    )


def _activation_bytes(params: "CausalLM") -> float:
    if params.gradient_checkpointing == "auto":
        return params.activation_gb * GB
    return 0.0 if params.gradient_checkpointing else math.inf


def load_pretrained(params: "CausalLM") -> tuple[torch.nn.Module, Any]:
    """Load model (float32, dropout 0) and tokenizer, from safetensors only and without running a repository's code.

    Raises `DataError` if they cannot be found or read.
    """
    model, tokenizer = read_model(AutoModelForCausalLM, AutoTokenizer, locate(params), where=_where(params))
    return model, tokenizer


def read_model(auto: Any, reader: Any, folder: Path, *, where: str) -> tuple[Any, Any]:
    """Load a folder by one of transformers' classes for models and one for tokenizers or processors.

    The model is in float32 and without dropout. Only safetensors are read, and no code of the folder runs. Raises
    `DataError` for a folder that cannot be read, whose configuration describes a larger model than its weights are, or
    whose weights are not all of the model's.
    """
    stored = check_folder(folder, where=where)
    try:
        with without_progress():
            config = AutoConfig.from_pretrained(folder)
            for part in filter(None, (config, *(getattr(config, name, None) for name in config.sub_configs))):
                for setting, value in part.to_dict().items():
                    if isinstance(value, float) and ("dropout" in setting or "pdrop" in setting):
                        setattr(part, setting, 0.0)
            check_size(partial(auto.from_config, config), stored, where=where)
            model, report = auto.from_pretrained(
                folder, config=config, dtype=torch.float32, use_safetensors=True, output_loading_info=True
            )
            read = reader.from_pretrained(folder)
    except (OSError, ValueError, RuntimeError, KeyError, AttributeError, ImportError) as error:
        raise DataError(f"{where}: cannot load it: {line_of(error)}") from error
    check_weights(model, report, where=where, kind=f"a model of {auto.__name__}")
    check_vocabulary(model, read.tokenizer if isinstance(read, ProcessorMixin) else read, where=where)
    return model, read


def locate(params: "CausalLM") -> Path:
    """Return the local folder of the model that params name, as `folder_of` does."""
    return folder_of(params.model, params.revision, where=_where(params))


def folder_of(source: str, revision: str | None, *, where: str) -> Path:
    """Return a model's local folder, downloaded from the hub where it is not in the local cache.

    Converts GGUF files. Raises `DataError` if there is no such folder, file or repository, or the hub cannot be
    reached.
    """
    if source.startswith("package:"):
        return package_folder(source.removeprefix("package:"))
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    local = path.is_absolute() or source.startswith((".", "~"))
    if path.suffix == ".gguf":
        if path.is_file() or local or len(path.parts) < 3:
            return gguf_folder(path, where=where)
        return gguf_folder(_hub_file(*path.parts, revision=revision, where=where), where=where)
    if local or source.count("/") > 1:
        raise DataError(f"{where}: no such folder")
    try:
        cached = Path(snapshot_download(source, revision=revision, local_files_only=True))
        if any(cached.glob("*.safetensors")):
            return cached
    except (OSError, ValueError):
        pass  # not in the cache: ask the hub once here, because its client would retry many times
    _ask_hub(source, revision, where=f"{where}: no such folder")
    try:
        with without_progress(), long_work(f"downloading {source}"):
            folder = snapshot_download(
                source, revision=revision, allow_patterns=_MODEL_FILES, ignore_patterns=_OTHER_FILES
            )
            return Path(folder)
    except (OSError, ValueError, HfHubHTTPError, httpx.HTTPError) as error:
        raise DataError(f"{where}: cannot download it from the model hub: {line_of(error)}") from error


def _hub_file(owner: str, repository: str, *inside: str, revision: str | None, where: str) -> Path:
    """Return one file of a hub repository, from the local cache or downloaded."""
    name, file = f"{owner}/{repository}", "/".join(inside)
    try:
        return Path(hf_hub_download(name, file, revision=revision, local_files_only=True))
    except (OSError, ValueError):
        _ask_hub(name, revision, where=f"{where}: no such file")
    try:
        with without_progress(), long_work(f"downloading {name}/{file}"):
            return Path(hf_hub_download(name, file, revision=revision))
    except (OSError, ValueError, HfHubHTTPError, httpx.HTTPError) as error:
        raise DataError(f"{where}: cannot download it from the model hub: {line_of(error)}") from error


def _ask_hub(name: str, revision: str | None, *, where: str) -> None:
    """Raise `DataError` if the hub does not have a repository or cannot be reached; asks only once."""
    try:
        HfApi().model_info(name, revision=revision, timeout=_HUB_TIMEOUT_S)
    except (OSError, ValueError, HfHubHTTPError, httpx.HTTPError) as error:
        raise DataError(
            f"{where}, not in the local cache, and the model hub says: {line_of(error)}; "
            "check the name and the network, or give a local one"
        ) from error


def _where(params: "CausalLM") -> str:
    return f"{params.type_name}.model {params.model!r}"


def context_of(config: Any, wanted: int | None) -> int:
    """Return the context length in tokens, `wanted` or the model's; raises `ParamError` if `wanted` exceeds it."""
    longest = int(getattr(config, "max_position_embeddings", None) or wanted or 2048)
    if wanted is not None and wanted > longest:
        raise ParamError(f"policy.causal_lm.max_context: {wanted}, but the model has {longest} positions")
    return wanted or longest
