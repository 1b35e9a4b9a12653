"""Our policy losses against TRL's trainer: the same loss and the same gradients of a model's weights."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from genrl_graph.nodes.update.steps.correction import correction_weights
from genrl_graph.nodes.update.steps.correction_config import Correction
from genrl_graph.nodes.update.steps.loss_config import LossConfig
from genrl_graph.nodes.update.steps.losses import Totals, policy_loss

VOCABULARY = 24
PAD, END = 0, 1
LENGTHS = (7, 3, 1, 5)
BUDGET = 11
CASES = {
    "grpo": LossConfig(loss_type="grpo"),
    "gspo": LossConfig(loss_type="grpo", importance="sequence", epsilon_low=0.01, epsilon_high=0.02),
    "grpo_symmetric": LossConfig(loss_type="grpo", epsilon_high=0.2),
    "bnpo": LossConfig(loss_type="bnpo"),
    "dapo": LossConfig(loss_type="dapo"),
    "dapo_two_sided": LossConfig(loss_type="dapo", delta=1.4),
    "dapo_masked": LossConfig(loss_type="dapo", off_policy_mask_threshold=0.0, beta=0.1),
    "dapo_sequence": LossConfig(loss_type="dapo", importance="sequence"),
    "dr_grpo": LossConfig(loss_type="dr_grpo"),
    "luspo": LossConfig(loss_type="luspo", importance="sequence", epsilon_low=0.01, epsilon_high=0.02),
    "cispo": LossConfig(loss_type="cispo", cispo_max_ratio=1.3),
    "cispo_sequence": LossConfig(loss_type="cispo", cispo_max_ratio=1.05, importance="sequence"),
    "sapo": LossConfig(loss_type="sapo"),
    "sapo_sequence": LossConfig(loss_type="sapo", importance="sequence"),
    "sapo_temperatures": LossConfig(loss_type="sapo", sapo_temperature_pos=0.7, sapo_temperature_neg=2.0),
    "vespo": LossConfig(loss_type="vespo"),
    "vespo_constants": LossConfig(
        loss_type="vespo", vespo_k_pos=1.0, vespo_lambda_pos=1.5, vespo_k_neg=2.5, vespo_lambda_neg=0.5
    ),
}


class Rows(NamedTuple):
    """Rows of one optimiser step, prompts and completions padded."""

    prompt_ids: Tensor
    prompt_mask: Tensor
    completion_ids: Tensor
    completion_mask: Tensor
    advantages: Tensor
    old_logprobs: Tensor
    ref_logprobs: Tensor

    def take(self, rows: slice) -> "Rows":
        """Return some of the rows."""
        return Rows(*(column[rows] for column in self))


class Outcome(NamedTuple):
    """A loss and its gradients by parameter name."""

    loss: Tensor
    gradients: dict[str, Tensor]


def model_logprobs(model: torch.nn.Module, rows: Rows) -> Tensor:
    """Compute the log-probs of the completion tokens in one plain forward pass."""
    input_ids = torch.cat([rows.prompt_ids, rows.completion_ids], dim=1)
    attention_mask = torch.cat([rows.prompt_mask, rows.completion_mask], dim=1)
    logits = model(input_ids=input_ids, attention_mask=attention_mask).logits
    first = rows.prompt_ids.shape[1]
    scores = logits[:, first - 1 : -1].log_softmax(-1)
    return scores.gather(-1, rows.completion_ids.unsqueeze(-1)).squeeze(-1)


def tiny_llama(seed: int) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.3,
        pad_token_id=PAD,
        bos_token_id=None,
        eos_token_id=END,
    )
    return LlamaForCausalLM(config)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Use one thread: on matrices this small, threads cost more than they gain, above all on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny_llama")
    tiny_llama(seed=0).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "<end>", *(f"w{index}" for index in range(2, VOCABULARY))]
    backend = Tokenizer(WordLevel({word: index for index, word in enumerate(words)}, unk_token="<pad>"))
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="<end>")


@pytest.fixture(scope="module")
def rows(model_path: Path) -> Rows:
    """Make left-padded prompts and completions of unequal length with end tokens, for a policy that has drifted."""
    from transformers import LlamaForCausalLM

    rng = torch.Generator().manual_seed(1)
    prompt_mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1], [0, 1, 1, 1], [0, 0, 0, 1]])
    prompt_ids = torch.randint(2, VOCABULARY, prompt_mask.shape, generator=rng) * prompt_mask
    steps = torch.arange(max(LENGTHS))
    lengths = torch.tensor(LENGTHS).unsqueeze(-1)
    completion_mask = (steps < lengths).long()
    completion_ids = torch.randint(2, VOCABULARY, completion_mask.shape, generator=rng) * completion_mask
    completion_ids[(steps == lengths - 1)] = END
    blank = torch.empty(0)
    bare = Rows(
        prompt_ids, prompt_mask, completion_ids, completion_mask, torch.tensor([1.3, -0.8, 0.6, -1.1]), blank, blank
    )
    with torch.no_grad():
        now = model_logprobs(LlamaForCausalLM.from_pretrained(model_path), bare)
    old = now + 0.3 * torch.randn(now.shape, generator=rng)
    reference = now + 0.5 * torch.randn(now.shape, generator=rng)
    return bare._replace(old_logprobs=old, ref_logprobs=reference)


@pytest.fixture(scope="module")
def trl_loss(
    model_path: Path, tokenizer: Any, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[LossConfig, list[Rows]], Outcome]:
    """Return TRL's loss and gradients, summed over the micro-batches of one optimiser step."""
    from datasets import Dataset
    from transformers import LlamaForCausalLM
    from trl import GRPOConfig, GRPOTrainer

    class Oracle(GRPOTrainer):
        def _prepare_inputs(self, generation_batch: Any) -> Any:
            return generation_batch

    output = tmp_path_factory.mktemp("trl")
    newer = "activation_checkpointing" in GRPOConfig.__dataclass_fields__
    recompute = "activation_checkpointing" if newer else "gradient_checkpointing"  # its name before transformers 5.23

    def arguments(config: LossConfig, micro_batches: int) -> GRPOConfig:
        ceiling = config.cispo_max_ratio if config.loss_type == "cispo" else config.epsilon_high
        return GRPOConfig(
            output_dir=str(output),
            use_cpu=True,
            bf16=False,
            report_to=[],
            **{recompute: False},
            per_device_train_batch_size=2,
            num_generations=2,
            gradient_accumulation_steps=micro_batches,
            max_completion_length=BUDGET,
            loss_type=config.loss_type,
            importance_sampling_level=config.importance,
            epsilon=config.epsilon_low,
            epsilon_high=ceiling,
            delta=config.delta,
            off_policy_mask_threshold=config.off_policy_mask_threshold,
            beta=config.beta,
            use_bias_correction_kl=config.unbiased_kl,
            sapo_temperature_pos=config.sapo_temperature_pos,
            sapo_temperature_neg=config.sapo_temperature_neg,
            vespo_k_pos=config.vespo_k_pos,
            vespo_lambda_pos=config.vespo_lambda_pos,
            vespo_k_neg=config.vespo_k_neg,
            vespo_lambda_neg=config.vespo_lambda_neg,
        )

    def run(config: LossConfig, batches: list[Rows], correction: Tensor | None = None) -> Outcome:
        trainer = Oracle(
            model=LlamaForCausalLM.from_pretrained(model_path),
            reward_funcs=lambda completions, **columns: [0.0] * len(completions),
            args=arguments(config, len(batches)),
            train_dataset=Dataset.from_dict({"prompt": ["w2"] * 4}),
            processing_class=tokenizer,
        )
        trainer.current_gradient_accumulation_steps = len(batches)
        trainer.model.train()
        trainer.use_vllm = correction is not None  # then it reads `importance_sampling_ratio`, whoever sampled
        tokens = torch.cat([batch.completion_mask for batch in batches]).sum()
        total = torch.zeros(())
        for batch in batches:
            inputs = trl_inputs(batch, tokens)
            if correction is not None:
                inputs["importance_sampling_ratio"] = correction
            loss = trainer._compute_loss(trainer.model, inputs)
            loss.backward()
            total = total + loss.detach()
        return Outcome(total, gradients(trainer.model))

    return run


def trl_inputs(rows: Rows, tokens: Tensor) -> dict[str, Tensor]:
    return {
        "prompt_ids": rows.prompt_ids,
        "prompt_mask": rows.prompt_mask,
        "completion_ids": rows.completion_ids,
        "completion_mask": rows.completion_mask,
        "advantages": rows.advantages,
        "old_per_token_logps": rows.old_logprobs,
        "ref_per_token_logps": rows.ref_logprobs,
        "num_items_in_batch": tokens,
    }


def gradients(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


def our_loss(model_path: Path, config: LossConfig, batches: list[Rows], correction: Tensor | None = None) -> Outcome:
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(model_path).train()
    whole = torch.cat([batch.completion_mask for batch in batches])
    totals = Totals(sequences=len(whole), tokens=int(whole.sum()), max_completion_tokens=BUDGET)
    total = torch.zeros(())
    for batch in batches:
        outcome = policy_loss(
            logprobs=model_logprobs(model, batch),
            old_logprobs=batch.old_logprobs,
            ref_logprobs=batch.ref_logprobs,
            advantages=batch.advantages,
            mask=batch.completion_mask,
            config=config,
            totals=totals,
            correction=correction,
        )
        outcome.loss.backward()
        total = total + outcome.loss.detach()
    return Outcome(total, gradients(model))


def assert_equal(ours: Outcome, theirs: Outcome) -> None:
    assert max(float(gradient.abs().max()) for gradient in theirs.gradients.values()) > 1e-3
    torch.testing.assert_close(ours.loss, theirs.loss, rtol=1e-5, atol=1e-5)
    assert ours.gradients.keys() == theirs.gradients.keys()
    for name, gradient in theirs.gradients.items():
        torch.testing.assert_close(ours.gradients[name], gradient, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradients_are_those_of_trl(
    case: str, rows: Rows, model_path: Path, trl_loss: Callable[[LossConfig, list[Rows]], Outcome]
) -> None:
    config = CASES[case]
    assert_equal(our_loss(model_path, config, [rows]), trl_loss(config, [rows]))


@pytest.mark.parametrize("unbiased_kl", [True, False])
@pytest.mark.parametrize(
    ("loss_type", "importance"),
    [("dapo", "token"), ("grpo", "sequence"), ("luspo", "sequence"), ("cispo", "token"), ("vespo", "token")],
)
def test_kl_to_a_reference_is_that_of_trl(
    loss_type: Any,
    importance: Any,
    unbiased_kl: bool,
    rows: Rows,
    model_path: Path,
    trl_loss: Callable[[LossConfig, list[Rows]], Outcome],
) -> None:
    config = LossConfig(loss_type=loss_type, importance=importance, beta=0.4, unbiased_kl=unbiased_kl)
    assert_equal(our_loss(model_path, config, [rows]), trl_loss(config, [rows]))


@pytest.mark.parametrize("case", ["grpo", "dapo", "dr_grpo", "luspo", "cispo", "sapo", "vespo"])
def test_micro_batches_add_up_to_trl_with_gradient_accumulation(
    case: str, rows: Rows, model_path: Path, trl_loss: Callable[[LossConfig, list[Rows]], Outcome]
) -> None:
    config = CASES[case]
    batches = [rows.take(slice(0, 2)), rows.take(slice(2, 4))]
    assert_equal(our_loss(model_path, config, batches), trl_loss(config, batches))


@pytest.mark.parametrize(
    ("loss_type", "importance", "level"),
    [
        ("grpo", "token", "token"),
        ("grpo", "token", "sequence"),
        ("grpo", "sequence", "token"),
        ("dapo", "token", "sequence"),
        ("vespo", "token", "token"),
    ],
)
def test_truncated_corrections_are_those_of_trl(
    loss_type: Any, importance: Any, level: Any, rows: Rows, model_path: Path, trl_loss: Callable[..., Outcome]
) -> None:
    """Only truncated ones: what TRL rejects has a weight of 0 and still counts in its means."""
    noise = 0.3 * torch.randn(rows.old_logprobs.shape, generator=torch.Generator().manual_seed(5))
    mask = rows.completion_mask.bool()
    weights = correction_weights(noise, mask, Correction.of("tis", level, 0.5, 1.2))
    ratio = torch.exp((noise * mask) if level == "token" else (noise * mask).sum(-1, keepdim=True)).clamp(0.5, 1.2)
    config = LossConfig(loss_type=loss_type, importance=importance, beta=0.4)
    assert_equal(our_loss(model_path, config, [rows], weights), trl_loss(config, [rows], ratio))
