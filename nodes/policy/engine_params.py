"""Params of an engine: a vLLM server, given or launched, that samples for a language model."""

import re
from collections.abc import Iterable, Sequence
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, field_validator, model_validator

from genrl_graph.contract.exact_numbers import ExactNumbers
from genrl_graph.contract.node import Node
from genrl_graph.nodes.endpoint.client import BaseUrl, Retries, RetryWait, key_variable
from genrl_graph.nodes.generate.text_generator import TextGenerator

LAUNCH_ARGS = (
    "attention-backend",
    "block-size",
    "cpu-offload-gb",
    "data-parallel-size",
    "disable-custom-all-reduce",
    "enable-chunked-prefill",
    "enable-prefix-caching",
    "enforce-eager",
    "gpu-memory-utilization",
    "kv-cache-dtype",
    "max-loras",
    "max-model-len",
    "max-num-batched-tokens",
    "max-num-seqs",
    "pipeline-parallel-size",
    "quantization",
    "seed",
    "swap-space",
    "tensor-parallel-size",
)
"""Arguments of vLLM that a graph file may give: numbers and switches, none that names code or files."""

EngineDtype = Literal["bfloat16", "float16", "float32"]


class VllmLaunch(ExactNumbers):
    """Launch of vLLM by a run: on loopback, for as long as the run lasts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    python: str = Field(
        default="ENGINE_PYTHON",
        description="environment variable, ENGINE_..., with the path of the Python in whose environment vLLM is; a "
        "graph file cannot name a program to run",
    )
    args: dict[str, bool | int | float | str] = Field(
        default={}, description="further arguments of vLLM's server, such as {gpu-memory-utilization: 0.4}"
    )
    start_timeout_s: float = Field(default=900.0, gt=0, description="seconds until the server must answer")
    restarts: int = Field(default=2, ge=0, le=100, description="times that a server is launched again after it died")

    @field_validator("python")
    @classmethod
    def _names_a_variable(cls, name: str) -> str:
        if not re.fullmatch(r"ENGINE_[A-Za-z0-9_]+", name):
            reason = "a graph file cannot name a program, so export its path under such a name"
            raise ValueError(f"{name!r} is no environment variable ENGINE_...; {reason}")
        return name

    @field_validator("args")
    @classmethod
    def _allowed(cls, args: dict[str, bool | int | float | str]) -> dict[str, bool | int | float | str]:
        for name in args:
            if name not in LAUNCH_ARGS:
                raise ValueError(f"{name!r} is no argument that a graph file may give; it may give {_listed()}")
        return args


def _listed() -> str:
    return ", ".join(LAUNCH_ARGS)


class VllmEngine(ExactNumbers):
    """A vLLM server that samples in place of the policy: `urls` of servers that run, or `launch`.

    Weights go over as a folder of safetensors files, which a server on another machine must see under the same path.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["vllm"] = Field(description="the engine")
    urls: tuple[BaseUrl, ...] = Field(
        default=(), description="base URLs of servers, such as [http://127.0.0.1:8000]; requests are spread over them"
    )
    launch: VllmLaunch | None = Field(default=None, description="launch a server for this run, instead of `urls`")
    api_key_env: str | None = Field(
        default=None, description="environment variable of the servers' API key, ENGINE_...; null: no key"
    )
    dtype: EngineDtype = Field(default="bfloat16", description="precision of the weights in the engine")
    weights_folder: str | None = Field(
        default=None,
        description="folder for the weights that servers load; null: one in the folder for temporary files",
    )
    timeout_s: float = Field(default=600.0, gt=0, description="seconds for a completion")
    sync_timeout_s: float = Field(default=300.0, gt=0, description="seconds for a server to load new weights")
    retries: Retries = 3
    retry_wait_s: RetryWait = 1.0
    concurrency: int = Field(default=256, ge=1, le=4096, description="requests to a server at the same time")
    verify_rows: int = Field(
        default=4,
        ge=0,
        description="completions of each call whose log-probs the policy computes again, to compare; 0: none",
    )
    max_log_ratio: float = Field(
        default=0.25,
        gt=0,
        description="mean difference between their log-probs above which the run ends, in nats a token",
    )

    _has_prefix = field_validator("api_key_env")(key_variable("ENGINE_"))

    @model_validator(mode="after")
    def _one_kind_of_server(self) -> Self:
        if bool(self.urls) == (self.launch is not None):
            raise ValueError("give either urls of servers that run, or launch: {}")
        return self

    @property
    def servers(self) -> str:
        """Return which servers sample, in words."""
        return "a server that the run launches" if self.launch is not None else ", ".join(self.urls)


EngineOption = Annotated[
    VllmEngine | None,
    Field(
        description="engine that samples in place of the policy, such as {kind: vllm, urls: [...]} or {kind: vllm, "
        "launch: {}}; null: the policy samples itself"
    ),
]


def unfit_readers(engine: VllmEngine | None, readers: Sequence[Node]) -> Iterable[str]:
    """Yield the generators whose sampling an engine does not give back to the updates."""
    if engine is None:
        return
    for reader in readers:
        if isinstance(reader, TextGenerator):
            for name, whole in (("top_k", 0), ("top_p", 1.0), ("min_p", 0.0)):
                if (value := getattr(reader, name)) != whole:
                    yield (
                        f"an engine of kind {engine.kind} samples the whole distribution only; {reader.place.node} has "
                        f"{name} {value:g}: set it to {whole:g}, or leave params.engine out"
                    )
