"""GGUF files, each converted once into a folder of safetensors in the cache."""

import importlib.util
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from genrl_graph.errors import DataError, GenrlGraphError
from genrl_graph.long_work import long_work
from genrl_graph.nodes.policy.compute.chat_tokens import chat_ids
from genrl_graph.nodes.policy.compute.quiet_libraries import without_progress
from genrl_graph.nodes.policy.compute.weights import WEIGHTS, named_tensors, save_weights
from genrl_graph.nodes.templates.rendering import TemplateFailed
from genrl_graph.seeds import digest

CONVERSION = 1  # part of the folder's name; increase it when the conversion changes

_MAGIC = b"GGUF"
_SAMPLES = (
    "Hello world",
    "  two spaces,\n\ttab and newline\n",
    "12345 + 678 = 13023",
    "def f(x):\n    return x ** 2  # naïve 漢字 🙂",
)
_CHAT = [{"role": "user", "content": "What is 2+2?"}]


def gguf_folder(gguf: Path, *, where: str) -> Path:
    """Return the folder with the converted model of a GGUF file, and convert it again if the file has changed."""
    file = gguf.resolve()
    try:
        state = file.stat()
    except OSError as error:
        raise DataError(f"{where}: cannot read {file}: {error.strerror}") from error
    key = digest(("gguf", str(file), state.st_size, state.st_mtime_ns), size=8)
    return converted(gguf, f"{gguf.stem}-{key}-{CONVERSION}", where=where)


def converted(gguf: Path, name: str, *, where: str) -> Path:
    """Return the cache folder `name` with the converted model of a GGUF file.

    Converts at first use, which takes about half a minute for 135M weights. Raises `DataError` if it is not a GGUF
    file, transformers does not know its architecture, or its tokenizer does not survive the conversion.
    """
    target = cache_root() / "models" / name
    if not target.is_dir():
        _check_readable(gguf, where)
        _convert(gguf, target, where=where)
    return target


def cache_root() -> Path:
    """Return the folder of converted models: $GENRL_GRAPH_CACHE, else ~/.cache/genrl_graph."""
    return Path(os.environ.get("GENRL_GRAPH_CACHE") or "~/.cache/genrl_graph").expanduser()


def _check_readable(gguf: Path, where: str) -> None:
    """Raise `DataError` if the package `gguf` is missing or the file is not a readable GGUF file."""
    if importlib.util.find_spec("gguf") is None:
        raise DataError(f"{where}: reading GGUF files needs the package gguf; run: pip install gguf")
    try:
        with gguf.open("rb") as file:
            start = file.read(len(_MAGIC))
    except OSError as error:
        raise DataError(f"{where}: cannot read {gguf}: {error.strerror}") from error
    if start != _MAGIC:
        raise DataError(f"{where}: {gguf.name} is not a GGUF file: it begins with {start!r}, not {_MAGIC!r}")


def _convert(gguf: Path, target: Path, *, where: str) -> None:
    """Convert into a temporary folder and rename it: readers never see half a model, and the first writer wins."""
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
    except GenrlGraphError:
        raise
    except Exception as error:  # a corrupt file can make the libraries raise anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise DataError(f"{where}: cannot convert {gguf.name}: {reason[:200]}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write(gguf: Path, folder: Path, where: str) -> None:
    with without_progress(), long_work(f"unpacking {gguf.stem} (once)"):
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        tokenizer.save_pretrained(folder)
        check_tokenizer(AutoTokenizer.from_pretrained(folder), tokenizer, where=where)
        model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config  # the weights written here are no longer quantised
        _drop_tokens_without_weights(folder / "tokenizer.json", model.get_input_embeddings().weight.shape[0])
        model.config.save_pretrained(folder)
        model.generation_config.save_pretrained(folder)
        save_weights(folder / WEIGHTS, named_tensors(model))


def _drop_tokens_without_weights(file: Path, rows: int) -> None:
    """Remove the tokens beyond the embedding: transformers adds the end token of GPT-2 to any byte-level tokenizer."""
    values = json.loads(file.read_text(encoding="utf-8"))
    values["added_tokens"] = [token for token in values["added_tokens"] if token["id"] < rows]
    file.write_text(json.dumps(values, ensure_ascii=False), encoding="utf-8")


def check_tokenizer(saved: Any, original: Any, *, where: str) -> None:
    """Raise `DataError` if the saved tokenizer encodes text, special tokens or chats differently from the original."""
    if original.eos_token_id is None or saved.eos_token_id != original.eos_token_id:
        raise DataError(f"{where}: its tokenizer has no end token")
    for text in _SAMPLES:
        ids = original.encode(text, add_special_tokens=False)
        if original.decode(ids, clean_up_tokenization_spaces=False) != text:
            raise DataError(f"{where}: its tokenizer does not give {text!r} back")
        if saved.encode(text, add_special_tokens=False) != ids:
            raise DataError(f"{where}: its saved tokenizer reads {text!r} differently")
    for token, number in zip(original.all_special_tokens, original.all_special_ids, strict=True):
        if saved.encode(token, add_special_tokens=False) != [number]:
            raise DataError(f"{where}: the special token {token!r} is not one id")
    try:
        if original.chat_template and chat_ids(saved, _CHAT) != chat_ids(original, _CHAT):
            raise DataError(f"{where}: its chat template renders differently after saving")
    except TemplateFailed as error:
        raise DataError(f"{where}: its chat template: {error}") from error
