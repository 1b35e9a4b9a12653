"""`policy.vlm`: prompts with images as ids, sampled log-probs against plain transformers, and what is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

import genrl_graph.graphs
from genrl_graph import NodeFailed, load
from genrl_graph.contract.policy import Completion, Sampling, TokenSequence, VisionPolicy
from genrl_graph.edge_types.png import decode_png, encode_png
from genrl_graph.errors import DataError, GraphError, ParamError
from genrl_graph.nodes.policy.vlm import TinyVision, Vlm
from genrl_graph.seeds import stream

TINY = TinyVision(alphabet="abcdefgh>", hidden_size=16, initializer_range=0.3)
IMAGES = [encode_png(stream("image", n).integers(0, 256, (8, 8, 3), np.uint8)) for n in range(3)]
TEXTS = ("a>", "abc>", "a>")


def asked(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


@pytest.fixture(scope="module")
def policy() -> Any:
    return Vlm(tiny=TINY, device="cpu").init("eyes", seed=0)


@pytest.fixture(scope="module")
def folder(policy: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that the policy was exported to, as a model of transformers."""
    folder = tmp_path_factory.mktemp("vlm")
    policy.export(folder)
    return folder


def sampled(policy: VisionPolicy, **options: Any) -> list[tuple[TokenSequence, Completion]]:
    """Sample twice for each of three prompts of other lengths and images, two of equal ids, in one batch."""
    prompts = [policy.render_with_image(asked(text), image) for text, image in zip(TEXTS, IMAGES, strict=True)]
    rows = policy.generate_with_images(
        prompts,
        IMAGES,
        num_generations=2,
        sampling=Sampling(5, **options),
        rng=stream("sample"),
        max_batch_tokens=1 << 12,
    )
    return [
        (TokenSequence(prompt, row.ids, row.support, image=image), row)
        for prompt, image, pair in zip(prompts, IMAGES, rows, strict=True)
        for row in pair
    ]


def test_prompts_are_the_ids_of_the_processor(policy: Any, folder: Path) -> None:
    processor: Any = AutoProcessor.from_pretrained(folder)
    for text, image in zip(TEXTS, IMAGES, strict=True):
        parts = [{"type": "image", "image": decode_png(image)}, {"type": "text", "text": text}]
        chat = [{"role": "user", "content": parts}]
        ids = processor.apply_chat_template(chat, tokenize=True, return_dict=True)["input_ids"][0]
        assert policy.render_with_image(asked(text), image).tolist() == list(ids)
    spelled = policy.render(asked("a<image>"))
    assert policy.tokens.image_id not in spelled.tolist()


def test_sampled_log_probs_are_those_of_one_plain_forward_pass(policy: Any, folder: Path) -> None:
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    processor: Any = AutoProcessor.from_pretrained(folder)
    rows = sampled(policy, temperature=0.7)
    for sequence, row in rows:
        whole = torch.from_numpy(np.concatenate([sequence.prompt_ids, sequence.completion_ids]).astype(np.int64))
        pixels = processor.image_processor(decode_png(sequence.image), return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            logits = model(input_ids=whole[None], pixel_values=pixels).logits[0] / 0.7
        logits[:, policy.tokens.image_id] = -torch.inf  # a completion shows no image
        start = len(sequence.prompt_ids)
        plain = logits.log_softmax(-1)[start - 1 : -1].gather(-1, whole[start:, None])[:, 0]
        np.testing.assert_allclose(row.logprobs, plain.numpy(), atol=1e-4)
    first, third = ([row.logprobs[0] for _, row in rows[at : at + 2]] for at in (0, 4))
    assert first != third  # equal ids, other images


def test_log_probs_of_updates_are_those_of_the_sampler_and_train_the_eyes(policy: Any) -> None:
    rows = sampled(policy, temperature=0.7, top_k=4)
    policy = policy.frozen("twin")
    computed = policy.logprobs([sequence for sequence, _ in rows], temperatures=np.full(len(rows), 0.7, np.float32))
    for (_, row), values in zip(rows, computed.detach().numpy(), strict=True):
        np.testing.assert_allclose(values[: len(row.logprobs)], row.logprobs, atol=1e-4)
    policy.backward(computed.sum())
    assert policy.model.model.vision_tower.embeddings.patch_embedding.weight.grad.abs().max() > 0


def test_a_row_without_its_image_is_refused(policy: Any) -> None:
    prompt = policy.render_with_image(asked("a>"), IMAGES[0])
    row = TokenSequence(prompt, np.asarray([3], np.int32))
    with pytest.raises(NodeFailed, match="a prompt shows an image that its row lacks"):
        policy.logprobs([row], temperatures=np.ones(1, np.float32))


def test_a_folder_is_loaded_proved_and_goes_on_exactly(policy: Any, folder: Path, tmp_path: Path) -> None:
    loaded: Any = Vlm(model=str(folder), device="cpu").init("eyes", seed=1)
    assert loaded.digest() == policy.digest() and loaded.context_length == TINY.max_context
    assert loaded.tokenizer_fingerprint == policy.tokenizer_fingerprint
    rows = [sequence for sequence, _ in sampled(loaded)]
    for _ in range(2):
        loaded.backward(-loaded.logprobs(rows, temperatures=np.ones(len(rows), np.float32)).mean())
        loaded.step(learning_rate=1e-2, max_grad_norm=1.0)
    loaded.save(tmp_path)
    other: Any = Vlm(tiny=TINY, device="cpu").init("eyes", seed=2)
    other.load(tmp_path)
    assert other.version == 2 and other.digest() == loaded.digest()


def test_a_folder_that_describes_more_than_its_weights_is_refused(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    config = json.loads((copy / "config.json").read_text())
    config["text_config"] |= {"num_hidden_layers": 900, "intermediate_size": 100_000}
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(DataError, match=r"describes \d+ weights, its safetensors hold \d+"):
        Vlm(model=str(copy), device="cpu").init("eyes", seed=0)


def test_what_sees_nothing_is_refused(tmp_path: Path) -> None:
    graphs = Path(genrl_graph.graphs.__file__).resolve().parent
    with pytest.raises(
        GraphError, match=r"guesser: sees no images, but generate\.answer has show_image; use policy\.vlm"
    ):
        load(graphs / "describe_image.yaml", ["nodes.describe.inputs.policy=guesser"])
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(DataError, match=r"policy\.vlm\.model"):
        Vlm(model=str(tmp_path)).init("eyes", seed=0)
    lacking: Any = Vlm(tiny=TINY, device="cpu").init("eyes", seed=0)
    lacking.tokens.tokenizer.chat_template = "{% for m in messages %}{{ m['content'][-1]['text'] }}{% endfor %}"
    lacking.tokens.__dict__.pop("_dated_template", None)
    with pytest.raises(ParamError, match="writes 0 image tokens for one image"):
        lacking.render_with_image(asked("a>"), IMAGES[0])


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"model": "x/y", "tiny": {"layers": 2}}, "tiny describes a random model"),
        ({"revision": "main"}, "revision is of a model"),
        ({"tiny": {"image_size": 9}}, "image_size 9 is not divisible by patch_size 4"),
        ({"tiny": {"alphabet": "aa"}}, "alphabet holds 'a' twice"),
    ],
)
def test_params_that_contradict_each_other_are_refused(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ParamError, match=message):
        Vlm(**params)
