"""An export gives the policy's log-probs in plain transformers, or nothing is left behind."""

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from causal_architectures import save_tiny
from transformers import AutoModelForCausalLM

from genrl_graph.contract.policy import TokenSequence
from genrl_graph.errors import ParamError, StoreError
from genrl_graph.nodes.policy.causal_lm import CausalLM
from genrl_graph.nodes.policy.compute.handle import CausalPolicy
from genrl_graph.nodes.policy.lora import Lora

ROW = TokenSequence(np.arange(5, 25, dtype=np.int32), np.arange(30, 40, dtype=np.int32))
ONES = np.ones(1, np.float32)


def trained(policy: CausalPolicy) -> CausalPolicy:
    policy.backward(-policy.logprobs([ROW], temperatures=ONES).mean())
    policy.step(learning_rate=1e-2, max_grad_norm=1.0)
    return policy


@pytest.mark.parametrize("kind", ["mixtral", "phimoe", "falcon"])  # experts, and linear layers that write out a product
@pytest.mark.parametrize("policy_type", [CausalLM, Lora])
def test_an_export_is_what_transformers_reads(policy_type: type, kind: str, tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "model", kind)
    policy = trained(policy_type(model=str(folder), device="cpu", compute_dtype="float32").init("policy", seed=0))
    (tmp_path / "exported").mkdir()
    policy.export(tmp_path / "exported")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "exported", dtype=torch.float32).eval()
    ids = torch.from_numpy(np.concatenate([ROW.prompt_ids, ROW.completion_ids]).astype(np.int64))[None]
    with torch.no_grad():
        mine = policy.logprobs([ROW], temperatures=ONES)[0]
        plain = model(input_ids=ids, use_cache=False).logits[0].log_softmax(-1)
    torch.testing.assert_close(mine, plain[19:-1].gather(-1, ids[0, 20:, None])[:, 0], atol=1e-4, rtol=0)


def test_an_export_that_computes_something_else_leaves_nothing_behind(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "model", "llama")
    policy = CausalLM(model=str(folder), device="cpu", compute_dtype="float32").init("policy", seed=0)
    assert isinstance(policy, CausalPolicy)
    cast(Any, policy.model).config.rms_norm_eps = 1.0  # the live modules keep theirs
    (tmp_path / "exported").mkdir()
    with pytest.raises(StoreError, match=r"differ by .* nats \(tolerance 0.001\); nothing was written"):
        policy.export(tmp_path / "exported")
    assert not list((tmp_path / "exported").iterdir())


def test_a_router_that_is_named_as_a_target_is_refused(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "model", "phimoe")
    with pytest.raises(ParamError, match="is no plain linear module"):
        Lora(model=str(folder), device="cpu", target_modules=("router",)).init("policy", seed=0)
