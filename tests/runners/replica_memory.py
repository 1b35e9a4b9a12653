"""Measure the memory of a rank of a 360M-parameter random model on 1, 2 and 4 ranks, against `plan --estimate`.

    python tests/runners/replica_memory.py [--ranks 1 2 4] [--param-dtype bfloat16]

Takes 12 GB of memory and minutes. Fails where a rank takes more than 1.3 times the estimate.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from ranks import ROOT, free_port

GB, MOST = 1e9, 1.3
LAUNCH = ["-m", "torch.distributed.run", "--rdzv-backend", "c10d", "--nproc-per-node"]
GAME = """
graph: big
version: 1
carry:
  policy:
    type: policy.causal_lm
    params: {{model: {model}, compute_dtype: {dtype}, param_dtype: {dtype}, max_context: 128}}
    next: update
nodes:
  tasks: {{type: source.list, params: {{tasks: [{{question: "<5> <6> <7>"}}, {{question: "<8> <9>"}}], num_tasks: 2}}}}
  answer:
    type: generate.answer
    inputs: {{tasks: tasks, policy: policy}}
    params: {{template: "{{{{ task.question }}}}", num_generations: 4, max_new_tokens: 8}}
  score: {{type: reward.alternating, inputs: {{rollouts: answer}}}}
  credit: {{type: advantage.group, inputs: {{scored: score}}}}
  update: {{type: update.grpo, inputs: {{policy: policy, credited: [credit]}}, params: {{max_batch_tokens: 128}}}}
run: {{rounds: 1, trackers: []}}
"""
NODES = """
import atexit, os, re
from pathlib import Path

import numpy as np

from genrl_graph import R, Reward, Scored, score

class Alternating(Reward, name="alternating"):
    \"\"\"Pays every second row, so that every group has something to learn from.\"\"\"

    def run(self, rollouts: R) -> Scored[R]:
        return score(rollouts, {"alternating": np.arange(len(rollouts)) % 2.0})

def write_peak() -> None:
    peak = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())
    Path(os.environ["PEAKS"], os.environ.get("RANK", "0")).write_text(peak[1])

if "PEAKS" in os.environ:
    atexit.register(write_peak)
"""


def save_model(folder: Path) -> None:
    """Write a random Llama with the sizes of SmolLM2-360M."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=960,
        intermediate_size=2560,
        num_hidden_layers=32,
        num_attention_heads=15,
        num_key_value_heads=5,
        tie_word_embeddings=True,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({f"<{id}>": id for id in range(49152)}, unk_token="<2>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<0>", eos_token="<1>", unk_token="<2>")
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
    tokenizer.save_pretrained(folder)


def measured(folder: Path, ranks: int) -> list[float]:
    """Play a round on some ranks and return the peak memory of each in GB."""
    peaks = folder / f"peaks{ranks}"
    peaks.mkdir()
    plays = ["-m", "genrl_graph", "run", str(folder / "big.yaml"), "--import", str(folder / "peaks.py"), "-q"]
    plays += ["-o", str(folder / f"run{ranks}"), f"run.replicas={ranks}", "--runner", "torch"]
    env = os.environ | {"PEAKS": str(peaks), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    endpoint = ["--rdzv-endpoint", f"127.0.0.1:{free_port()}"]
    subprocess.run([sys.executable, *LAUNCH, str(ranks), *endpoint, *plays], env=env, check=True)
    return [int((peaks / str(rank)).read_text()) * 1024 / GB for rank in range(ranks)]


def estimated(folder: Path, ranks: int) -> tuple[float, dict[str, float]]:
    """Return the high end of the estimate for a rank in GB, and its parts."""
    plan = ["-m", "genrl_graph", "plan", str(folder / "big.yaml"), "--import", str(folder / "peaks.py")]
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, *plan, f"run.replicas={ranks}", "--estimate", "--format", "json"]
    forecast = json.loads(subprocess.run(words, env=env, check=True, text=True, stdout=subprocess.PIPE).stdout)
    return forecast["memory"]["high"] / GB, {name: value / GB for name, value in forecast["memory_parts"].items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--param-dtype", choices=["float32", "bfloat16"], default="float32")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        folder = Path(name)
        save_model(folder / "model")
        (folder / "big.yaml").write_text(GAME.format(model=folder / "model", dtype=args.param_dtype))
        (folder / "peaks.py").write_text(NODES)
        for ranks in args.ranks:
            peaks, (most, parts) = measured(folder, ranks), estimated(folder, ranks)
            shown = ", ".join(f"{part} {size:.2f}" for part, size in parts.items())
            print(
                f"{ranks} ranks: {', '.join(f'{peak:.2f}' for peak in peaks)} GB; estimate {most:.2f} ({shown})",
                flush=True,
            )
            assert max(peaks) <= MOST * most


if __name__ == "__main__":
    main()
