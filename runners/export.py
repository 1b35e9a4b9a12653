"""Export a policy of a run as a Hugging Face folder that transformers, peft or diffusers loads."""

import shutil
import tempfile
from pathlib import Path, PurePath

import yaml

from genrl_graph.errors import DataError, ParamError, StoreError
from genrl_graph.nodes.policy.compute.handle import CausalPolicy
from genrl_graph.nodes.policy.denoising.pipeline_policy import PipelinePolicy
from genrl_graph.nodes.policy.loading.saved import SavedPolicy, saved_policy
from genrl_graph.nodes.policy.seeing.vision_policy import VisionLanguagePolicy
from genrl_graph.store.durable import failed
from genrl_graph.version import VERSION

CARD = "README.md"
Exportable = CausalPolicy | PipelinePolicy


def export_policy(
    run: Path | str,
    policy: str,
    out: Path | str,
    *,
    round: int | None = None,
    peer: str | None = None,
    adapter_only: bool = False,
    push_to_hub: str | None = None,
) -> Path:
    """Write weights, configuration, tokenizer and a model card to the new folder `out`, which appears in one rename.

    A diffusion policy is written as the pipeline of diffusers that it is. An adapter is merged into its base, or with
    `adapter_only` written in peft's format. `round` defaults to the last checkpoint. `push_to_hub` names a repository
    that the folder is uploaded to. Raises `StoreError` where `out` exists or the run does not have the policy,
    `DataError` where the upload fails.
    """
    out = Path(out)
    if out.exists():
        raise StoreError(f"{out}: exists already; name another folder")
    saved = saved_policy(Path(run), policy, round=round, peer=peer)
    handle = _exportable(saved, policy)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
        try:
            _write(draft, handle, adapter_only=adapter_only)
            (draft / CARD).write_text(model_card(saved, handle, adapter=adapter_only), encoding="utf-8")
            draft.chmod(0o755)  # temporary folders and safetensors files are readable by their owner only
            for path in draft.rglob("*"):
                path.chmod(0o755 if path.is_dir() else 0o644)
            draft.rename(out)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    except OSError as error:
        raise failed(out, "write the exported policy", error) from error
    if push_to_hub is not None:
        push(out, push_to_hub)
    return out


def _exportable(saved: SavedPolicy, policy: str) -> Exportable:
    handle = saved.live(policy, device="cpu")
    if not isinstance(handle, CausalPolicy | PipelinePolicy):
        what = f"a {type(handle).__name__}, neither a language model of torch nor a pipeline of diffusers"
        raise DataError(f"{saved.run}: carry.{saved.name} is {what}")
    return handle


def _write(folder: Path, handle: Exportable, *, adapter_only: bool) -> None:
    if not adapter_only:
        return handle.export(folder)
    from genrl_graph.nodes.policy.loading.adapter import LoraPolicy

    if not isinstance(handle, LoraPolicy):
        raise ParamError(f"policy {handle.name!r} is no adapter; export it without adapter_only")
    return handle.export_adapter(folder)


def model_card(saved: SavedPolicy, handle: Exportable, *, adapter: bool) -> str:
    """Return the README.md of the exported folder: front matter, origin of the policy, rewards, code that loads it."""
    base = _base_model(saved)
    library = "diffusers" if isinstance(handle, PipelinePolicy) else "peft" if adapter else "transformers"
    front = {
        "library_name": library,
        "pipeline_tag": _task(handle),
        **({"base_model": base} if base else {}),
        "tags": ["genrl-graph", "reinforcement-learning"],
    }
    lines = [
        "---",
        yaml.safe_dump(front, sort_keys=False).strip(),
        "---",
        "",
        f"# {saved.graph}: {saved.name}",
        "",
        f"A policy trained by reinforcement learning with genrl-graph {VERSION}.",
        "",
        *("| | |", "| --- | --- |", *_origin_rows(saved, handle, base)),
    ]
    if rewards := saved.final_rewards():
        rows = [f"| {name} | {value:.4g} |" for name, value in rewards.items()]
        lines += ["", "| node | mean reward in the last round |", "| --- | --- |", *rows]
    lines += ["", "```python", *_loading_code(library, handle), "```", ""]
    return "\n".join(lines)


def _task(handle: Exportable) -> str:
    """Return what the model does, as the hub calls it."""
    if isinstance(handle, PipelinePolicy):
        return "text-to-image"
    return "image-text-to-text" if isinstance(handle, VisionLanguagePolicy) else "text-generation"


def _loading_code(library: str, handle: Exportable) -> list[str]:
    if isinstance(handle, PipelinePolicy):
        kind = handle.parts.pipeline_class
        return [f"from diffusers import {kind}", "", f'pipeline = {kind}.from_pretrained("path/to/this/folder")']
    if isinstance(handle, VisionLanguagePolicy):
        return [
            "from transformers import AutoModelForImageTextToText, AutoProcessor",
            "",
            'model = AutoModelForImageTextToText.from_pretrained("path/to/this/folder")',
            'processor = AutoProcessor.from_pretrained("path/to/this/folder")',
        ]
    loader = "AutoPeftModelForCausalLM" if library == "peft" else "AutoModelForCausalLM"
    return [
        f"from {library} import {loader}",
        "from transformers import AutoTokenizer",
        "",
        f'model = {loader}.from_pretrained("path/to/this/folder")',
        'tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")',
    ]


def _origin_rows(saved: SavedPolicy, handle: Exportable, base: str | None) -> list[str]:
    facts = {
        "run": saved.run.resolve().name,
        "graph": saved.graph,
        "policy": f"{saved.name} ({saved.carry.type_name})",
        "trained from": PurePath(getattr(saved.carry, "model", None) or "").name if base is None else base,
        "rounds trained": saved.round,
        "peer": saved.peer,
        "version": f"{handle.version} (optimiser steps)",
        "digest": handle.digest(),
    }
    return [f"| {name} | {value} |" for name, value in facts.items() if value != ""]


def _base_model(saved: SavedPolicy) -> str | None:
    """Return the hub name of the model that training began with; None where it is a local folder."""
    model = getattr(saved.carry, "model", "")
    is_hub_name = isinstance(model, str) and model.count("/") == 1 and not model.startswith((".", "/", "~"))
    return model if is_hub_name else None


def push(folder: Path, repository: str) -> None:
    """Upload an exported folder to the model hub; raises `DataError` where the hub refuses or cannot be reached."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # whichever httpx the hub client uses

    api = HfApi()
    try:
        api.create_repo(repository, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder)
    except (OSError, ValueError, HfHubHTTPError, httpx.HTTPError) as error:
        what = str(error).strip().partition("\n")[0] or type(error).__name__
        raise DataError(f"{repository}: cannot upload: {what}; the export stays in {folder}") from error
