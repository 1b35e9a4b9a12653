"""Tiny random models of every causal architecture that transformers builds from a small configuration."""

from pathlib import Path
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from genrl_graph.nodes.policy.tiny_lm import PRINTABLE, SPECIAL, character_tokenizer

ENDED = (
    "{% for m in messages %}{{ m['content'] }}{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
)
"""A chat template that joins the messages and ends those of the assistant."""

VOCABULARY = len(PRINTABLE) + len(SPECIAL)
_WIDTHS = dict.fromkeys(("hidden_size", "n_embd", "d_model", "word_embed_proj_dim"), 32)
_DEPTHS = dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), 2)
_HEADS = dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 4) | {"num_key_value_heads": 2}
_LENGTHS = dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len"), 128)
_BORDERS = dict.fromkeys(("sliding_window", "attention_chunk_size", "chunk_size", "mamba_chunk_size"), 16)
_EXPERTS = dict.fromkeys(("num_experts", "n_routed_experts", "num_local_experts"), 4)
_EXPERTS |= {"moe_intermediate_size": 16, "shared_expert_intermediate_size": 16}
_LATENT = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}
_STATES = {"state_size": 8, "mamba_d_state": 8, "linear_key_head_dim": 8, "linear_value_head_dim": 8}
_STATES |= {"linear_num_key_heads": 2, "linear_num_value_heads": 4}
_TOKENS = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0}
_OTHERS = {"intermediate_size": 48, "ffn_dim": 48, "head_dim": 8, "initializer_range": 0.2, "init_std": 0.2}
_ROUTING = {"num_experts_per_tok": 2, "moe_topk": 2, "n_group": 1, "topk_group": 1}
SIZES: dict[str, Any] = (
    _WIDTHS | _DEPTHS | _HEADS | _LENGTHS | _BORDERS | _EXPERTS | _LATENT | _STATES | _TOKENS | _OTHERS | _ROUTING
)

_MLA = {"num_key_value_heads": 4, "qk_head_dim": 16}
_MAMBA2 = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_n_groups": 1}
_ROPE = {"rope_theta": 10000.0, "factor": 4.0}
_LONGROPE = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [8.0, 6.0, 5.0, 4.0]}
_SLIDING = {"layer_types": ["sliding_attention", "full_attention"]}

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "phi3 LongRoPE": (
        "phi3",
        {
            "sliding_window": None,
            "original_max_position_embeddings": 24,
            "rope_parameters": _ROPE | _LONGROPE | {"original_max_position_embeddings": 24},
        },
    ),
    "llama dynamic NTK": (
        "llama",
        {"max_position_embeddings": 24, "rope_parameters": _ROPE | {"rope_type": "dynamic"}},
    ),
    "llama yarn": (
        "llama",
        {"rope_parameters": _ROPE | {"rope_type": "yarn", "original_max_position_embeddings": 24}},
    ),
    "mixtral jitter": ("mixtral", {"router_jitter_noise": 0.3}),
    "opt layerdrop": ("opt", {"layerdrop": 0.5, "dropout": 0.3}),
    "falcon alibi": ("falcon", {"alibi": True, "new_decoder_architecture": False}),
    "qwen2 windows": ("qwen2", {"use_sliding_window": True, "max_window_layers": 1}),
}
"""Settings of an architecture that decide how it may be called."""

OVERRIDES: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("axk1", "deepseek_v2", "deepseek_v3", "glm4_moe_lite", "minicpm3", "sarvam_mla", "youtu"), _MLA),
    **{name: {"is_decoder": True} for name in ("bert", "bert-generation", "ernie", "megatron-bert", "roberta")},
    "bamba": _MAMBA2 | {"attn_layer_indices": [1]},
    "codegen": {"rotary_dim": 4},
    "exaone4": _SLIDING,
    "gemma2": {"final_logit_softcapping": 5.0, "attn_logit_softcapping": 5.0, "query_pre_attn_scalar": 8},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 16},
    "gptj": {"rotary_dim": 4},
    "granitemoehybrid": _MAMBA2 | {"layer_types": ["mamba", "attention"]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "llama4_text": {"intermediate_size_mlp": 48, "moe_layers": [0]},
    "mamba2": {"num_heads": 8, "n_groups": 1},
    "qwen3_5_moe_text": {"num_hidden_layers": 4},
    "qwen3_5_text": {"num_hidden_layers": 4},
    "qwen3_next": {"num_hidden_layers": 4},
    "nemotron_h": {"chunk_size": 16},
    "recurrent_gemma": {"num_hidden_layers": 3, "num_key_value_heads": 1, "attention_window_size": 16},
    "xlm": {"causal": True, "embed_init_std": 0.2},  # embeddings that are all but equal amplify rounding
    "zamba2": {"layers_block_type": ["mamba", "hybrid"], "n_mamba_heads": 8, "mamba_headdim": 8, "mamba_ngroups": 1}
    | {"num_mem_blocks": 1, "hybrid_layer_ids": [1]},
}

PLAIN = [
    "afmoe",
    "apertus",
    "apertus1p5_text",
    "arcee",
    "aria_text",
    "bailing_hybrid",
    "bart",
    "beam",
    "bigbird_pegasus",
    "biogpt",
    "bitnet",
    "blenderbot",
    "blenderbot-small",
    "bloom",
    "cohere",
    "cohere2",
    "cohere2_moe",
    "ctrl",
    "cwm",
    "deepseek_v4",
    "diffllama",
    "doge",
    "dory",
    "ernie4_5",
    "ernie4_5_moe",
    "exaone",
    "exaone_moe",
    "falcon",
    "falcon_h1",
    "falcon_mamba",
    "flex_olmo",
    "flint",
    "gemma",
    "gemma3_text",
    "gemma4_unified_text",
    "glm",
    "glm4",
    "glm4_moe",
    "gpt-sw3",
    "gpt2",
    "gpt_bigcode",
    "gpt_neox",
    "gpt_neox_japanese",
    "gpt_oss",
    "granite",
    "granite_swa",
    "granitemoe",
    "granitemoe_swa",
    "granitemoeshared",
    "helium",
    "hrm_text",
    "hunyuan_v1_dense",
    "hunyuan_v1_moe",
    "hy_v3",
    "hy_v4",
    "hyperclovax",
    "inkling_text",
    "internlm3",
    "iquestcoder",
    "jais2",
    "jetmoe",
    "kolibri1",
    "laguna",
    "lara_mini",
    "lfm3",
    "llama",
    "mamba",
    "marian",
    "mbart",
    "mellum",
    "mimo_v2_flash",
    "minimax",
    "minimax_m2",
    "minimax_m3_vl_text",
    "ministral",
    "ministral3",
    "mistral",
    "mixtral",
    "modernbert-decoder",
    "moshi",
    "mpt",
    "nanochat",
    "nemotron",
    "olmo",
    "olmo2",
    "olmo3",
    "olmo_hybrid",
    "olmoe",
    "openai-gpt",
    "opt",
    "persimmon",
    "phi",
    "phi3",
    "phimoe",
    "qwen2",
    "qwen2_moe",
    "qwen3",
    "qwen3_moe",
    "qwen4_exp_text",
    "rwkv",
    "sarvam_moe",
    "seed_oss",
    "smollm3",
    "solar_open",
    "stablelm",
    "starcoder2",
    "vaultgemma",
    "xglm",
]
"""Architectures that need no more than the sizes."""

ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in PLAIN},
    **{name: (name, settings) for name, settings in OVERRIDES.items()},
    **VARIANTS,
}
"""Every architecture of the survey, by name: its type and the settings that differ from the sizes."""


REFUSED = ("cpmant", "prophetnet", "xlnet")
"""Architectures that are refused when they are loaded: in plain transformers, too, their tokens see later ones."""


def tiny_config(kind: str, settings: dict[str, Any]) -> Any:
    """Return a small configuration of an architecture; of the sizes it takes those that it has fields for."""
    config = CONFIG_MAPPING[kind]
    fields = {name for base in config.__mro__ for name in getattr(base, "__annotations__", {})}
    fields |= set((getattr(config, "attribute_map", None) or {}).values())
    return config(**{name: size for name, size in SIZES.items() if name in fields} | settings)


def save_tiny(folder: Path, kind: str, **settings: Any) -> Path:
    """Write a random model of an architecture, with a character tokenizer, as transformers writes it."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(tiny_config(kind, settings))
    model.save_pretrained(folder)
    tokenizer = character_tokenizer(PRINTABLE)
    tokenizer.chat_template = ENDED
    tokenizer.save_pretrained(folder)
    return folder
