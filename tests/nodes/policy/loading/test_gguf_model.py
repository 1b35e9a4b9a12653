import io
import logging
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from architectures import causal
from causal_architectures import ENDED
from gguf import GGUFWriter, TokenType
from numpy.typing import NDArray
from tqdm.auto import tqdm
from transformers.utils import logging as transformers_logging

from genrl_graph.contract.data_path import DataPath
from genrl_graph.errors import DataError
from genrl_graph.nodes.policy.causal_lm import CausalLM
from genrl_graph.nodes.policy.compute.handle import CausalPolicy
from genrl_graph.nodes.policy.compute.quiet_libraries import without_progress
from genrl_graph.nodes.policy.loading.gguf_model import cache_root
from genrl_graph.nodes.policy.tiny_lm import CONTENTS

QUICKSTART = Path(__file__).parents[4] / "graphs" / "quickstart.yaml"
HIDDEN, HEADS, FEED = 32, 2, 64


def byte_letters() -> list[str]:
    """Return the 256 letters that stand for bytes in a byte-level tokenizer."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + at) for at in range(len(others))]


def write_gguf(
    path: Path, *, architecture: str = "llama", template: str | None = CONTENTS, seed: int = 0, context: int = 64
) -> dict[str, NDArray[np.float32]]:
    """Write a one-layer model with a byte-level tokenizer in the form of llama.cpp's converter; return its weights."""
    rng = np.random.default_rng(seed)
    tokens = ["<|end|>", *byte_letters(), "th"]
    writer = GGUFWriter(path, architecture)
    writer.add_context_length(context)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(1)
    writer.add_feed_forward_length(FEED)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.CONTROL, *[TokenType.NORMAL] * (len(tokens) - 1)])
    writer.add_token_merges(["t h"])
    writer.add_eos_token_id(0)
    writer.add_bos_token_id(0)
    if template:
        writer.add_chat_template(template)
    shapes = {"token_embd": (len(tokens), HIDDEN), "output": (len(tokens), HIDDEN)}
    shapes |= {f"blk.0.attn_{name}": (HIDDEN, HIDDEN) for name in ("q", "k", "v", "output")}
    shapes |= {"blk.0.ffn_gate": (FEED, HIDDEN), "blk.0.ffn_up": (FEED, HIDDEN), "blk.0.ffn_down": (HIDDEN, FEED)}
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(HIDDEN, np.float32))
    weights = {name: rng.normal(0, 0.1, shape).astype(np.float32) for name, shape in shapes.items()}
    for name, weight in weights.items():
        writer.add_tensor(f"{name}.weight", weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return weights


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENRL_GRAPH_CACHE", str(tmp_path / "cache"))


def load(path: Path | str, **params: Any) -> CausalPolicy:
    model = CausalLM(model=str(path), device="cpu", compute_dtype="float32", **params)
    return causal(model.init("policy", seed=0))


def test_a_gguf_file_is_a_policy(tmp_path: Path) -> None:
    weights = write_gguf(tmp_path / "small.gguf")
    policy = load(tmp_path / "small.gguf")
    assert policy.context_length == 64
    assert policy.decode(policy.render([{"role": "user", "content": "that 漢"}]).tolist()) == "that 漢"
    for name, label in (("lm_head", "output"), ("model.layers.0.mlp.up_proj", "blk.0.ffn_up")):
        np.testing.assert_array_equal(policy.model.get_parameter(f"{name}.weight").detach(), weights[label])


def test_a_file_is_converted_once_and_again_when_it_changed(tmp_path: Path) -> None:
    path = tmp_path / "small.gguf"
    write_gguf(path)
    first = load(path)
    (converted,) = (cache_root() / "models").iterdir()
    assert load(path, weight_decay=0.1).digest() == first.digest()
    assert [converted] == list((cache_root() / "models").iterdir())
    write_gguf(path, seed=1)
    os.utime(path, ns=(1, 1))
    assert load(path, weight_decay=0.2).digest() != first.digest()


def test_a_file_without_a_chat_template_takes_one_from_the_params(tmp_path: Path) -> None:
    write_gguf(tmp_path / "base.gguf", template="")
    with pytest.raises(DataError, match="has no chat template; set the param chat_template"):
        load(tmp_path / "base.gguf")
    policy = load(tmp_path / "base.gguf", chat_template="{{ messages[-1]['content'] }}!")
    assert policy.decode(policy.render([{"role": "user", "content": "hi"}]).tolist()) == "hi!"


def test_what_is_no_gguf_file_or_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "text.gguf").write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(DataError, match=r"policy\.causal_lm\.model '.*': text\.gguf is not a GGUF file: .* b'vers'"):
        load(tmp_path / "text.gguf")
    write_gguf(tmp_path / "odd.gguf", architecture="nonsense")
    with pytest.raises(DataError, match=r"cannot convert odd\.gguf: .*nonsense"):
        load(tmp_path / "odd.gguf")
    write_gguf(tmp_path / "torn.gguf")
    torn = (tmp_path / "torn.gguf").read_bytes()[:20_000]
    (tmp_path / "torn.gguf").write_bytes(torn)
    with pytest.raises(DataError, match=r"cannot convert torn\.gguf") as caught:
        load(tmp_path / "torn.gguf")
    assert "\n" not in str(caught.value)
    assert not list((cache_root() / "models").iterdir())
    with pytest.raises(DataError, match=r"cannot read .*nowhere\.gguf: No such file"):
        load(tmp_path / "nowhere.gguf")


def test_a_file_of_the_hub_is_looked_for_in_the_local_cache_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match=r"'genrl-tests/no-such/sub/x\.gguf': no such file, not in the local cache"):
        load("genrl-tests/no-such/sub/x.gguf")
    snapshot = tmp_path / "hub" / "models--genrl-tests--small"
    (snapshot / "snapshots" / "0" / "sub").mkdir(parents=True)
    (snapshot / "refs").mkdir()
    (snapshot / "refs" / "main").write_text("0")
    write_gguf(snapshot / "snapshots" / "0" / "sub" / "x.gguf")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert load("genrl-tests/small/sub/x.gguf").context_length == 64


def test_a_relative_file_is_beside_the_graph_file_and_a_hub_name_is_no_file(tmp_path: Path) -> None:
    class Holder(CausalLM):
        model: DataPath

    def place(value: str) -> DataPath | str:
        return Holder.model_validate({"model": value}, context={"folder": tmp_path}).model

    assert place("small.gguf") == str(tmp_path / "small.gguf")
    assert place("owner/repository/small.gguf") == "owner/repository/small.gguf"


def test_loading_prints_nothing_and_leaves_the_bars_of_others_as_they_were(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_gguf(tmp_path / "small.gguf")
    load(tmp_path / "small.gguf")
    assert capfd.readouterr() == ("", "")
    assert list(tqdm(range(2), desc="mine")) == [0, 1]
    assert "mine: 100%" in capfd.readouterr().err
    assert transformers_logging.is_progress_bar_enabled()


def test_bars_of_libraries_come_back_after_an_error_and_their_warnings_always_show(
    capfd: pytest.CaptureFixture[str],
) -> None:
    logger, output = transformers_logging.get_logger("transformers.test_quiet"), io.StringIO()
    logger.addHandler(logging.StreamHandler(output))
    with pytest.raises(ValueError, match="torn"), without_progress():
        list(tqdm(range(2), desc="theirs"))
        logger.warning("this matters")
        raise ValueError("torn")
    assert "theirs" not in capfd.readouterr().err
    assert output.getvalue() == "this matters\n"
    list(tqdm(range(2), desc="mine"))
    assert "mine: 100%" in capfd.readouterr().err


@pytest.mark.long
def test_the_first_round_of_the_quickstart_warns_of_nothing_and_prints_its_own_lines_alone(tmp_path: Path) -> None:
    """Run the quickstart as a new user would, from an unconverted GGUF file, with every warning an error."""
    write_gguf(tmp_path / "small.gguf", context=2048, template=ENDED)
    small = [f"nodes.{node}.params.num_generations=2" for node in ("answer", "critique", "final")]
    small += ["run.rounds=1", "nodes.tasks.params.num_tasks=1", f"carry.policy.params.model={tmp_path}/small.gguf"]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "genrl_graph", "run", QUICKSTART, "-o", "run", *small],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    ours = (
        r"quickstart: 1 round, 3 stages, 2 peers, written to run",
        r"loading (torch|\w+ \([\w.]+\)|policy of peer000[01])",
        r"unpacking small \(once\)",
        r"round 1/1  stage 0 reward .*",
        r"(round 1: the weights did not change|nothing was learned in 1 of 1 round)[,;] .*all wrong.*",  # it guesses
        r"stage  first reward .*|─+|    [012]  .*|",
        r"peer000[01] policy: weights .*",
        r"rollouts: run/rollouts.zarr",
        r"what to look at next:|(rewards|rollouts|picture) +.* -m genrl_graph .*",
    )
    strange = [line for line in done.stderr.splitlines() if not re.fullmatch("|".join(ours), line)]
    assert strange == []
    assert (tmp_path / "run" / "rollouts.zarr").is_dir()
