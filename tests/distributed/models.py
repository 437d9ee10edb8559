"""Tiny random folders of all families and a fixed batch, the same in every process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from s2l_nemo.types import TrainBatch
from tests.random_qwen3 import FIGURES, random_model, random_qwen3

VOCAB: int = FIGURES["vocab_size"]


def write_qwen3(
    folder: Path,
    *,
    tied: bool = True,
    seed: int = 0,
    hidden: int = 64,
    layers: int = 4,
    dtype: torch.dtype = torch.float32,
    shards: int = 1,
    **config: Any,
) -> Path:
    """A random Qwen3 with a byte-level tokenizer, as a Hugging Face folder.

    It is cut into at least `shards` files of about equal size. `config` overrides figures of config.json.
    """
    figures = {"hidden_size": hidden, "num_hidden_layers": layers, "tie_word_embeddings": tied, **config}
    return write_random(folder, random_qwen3(seed=seed, **figures), dtype, shards)


LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
VARIANTS: dict[str, dict[str, Any]] = {  # figures that differ from the random Qwen3's
    "qwen2": {"model_type": "qwen2", "head_dim": 16},
    "qwen2 tied": {"model_type": "qwen2", "head_dim": 16, "tie_word_embeddings": True},
    "llama3": {"model_type": "llama", "head_dim": 16, "rope_theta": 1e3, "rope_scaling": LLAMA3},
    "yarn": {"model_type": "qwen3", "rope_theta": 1e3, "rope_scaling": YARN},
    "qwen2 yarn": {"model_type": "qwen2", "head_dim": 16, "rope_theta": 1e3, "rope_scaling": YARN},
}


def write_variant(
    folder: Path, name: str, *, seed: int = 0, dtype: torch.dtype = torch.float32, shards: int = 1, **config: Any
) -> Path:
    """A random model of `VARIANTS`, as `write_qwen3`."""
    figures = {"tie_word_embeddings": False, **VARIANTS[name], **config}
    return write_random(folder, random_model(seed=seed, **figures), dtype, shards)


def write_random(folder: Path, model: Any, dtype: torch.dtype = torch.float32, shards: int = 1) -> Path:
    with torch.no_grad():
        for parameter in model.parameters():  # norms of all ones and biases of all zeros would hide a lost one
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.to(dtype)
    size = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    model.save_pretrained(folder, max_shard_size=size if shards == 1 else size // shards)
    write_tokenizer(folder)
    return folder


INTERNLM2 = {  # as on the hub, without the figures
    "architectures": ["InternLM2ForCausalLM"],
    "auto_map": {
        "AutoConfig": "modeling_internlm2.InternLM2Config",
        "AutoModel": "modeling_internlm2.InternLM2ForCausalLM",
        "AutoModelForCausalLM": "modeling_internlm2.InternLM2ForCausalLM",
    },
    "attn_implementation": "eager",
    "bias": False,
    "bos_token_id": 256,
    "eos_token_id": 258,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "max_position_embeddings": 256,
    "model_type": "internlm2",
    "pad_token_id": 256,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-5,
    "rope_scaling": {"type": "dynamic", "factor": 2.0},
    "rope_theta": 1e6,
    "tie_word_embeddings": False,
    "use_cache": True,
    "vocab_size": VOCAB,
}


def write_internlm2(
    folder: Path,
    *,
    seed: int = 0,
    hidden: int = 64,
    layers: int = 4,
    heads: int = 4,
    kv_heads: int = 2,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """A random InternLM2.5 with a byte-level tokenizer, as on the hub: its code is remote and must never be run.

    The code that its files name creates `folder/EXECUTED`.
    """
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(seed)
    ffn, head_dim = 96, hidden // heads

    def matrix(*shape: int) -> torch.Tensor:
        return (0.05 * torch.randn(*shape, generator=generator)).to(dtype)

    def norm() -> torch.Tensor:
        return (1 + 0.05 * torch.randn(hidden, generator=generator)).to(dtype)

    tensors = {
        "model.tok_embeddings.weight": matrix(VOCAB, hidden),
        "model.norm.weight": norm(),
        "output.weight": matrix(VOCAB, hidden),
    }
    for layer in range(layers):
        groups = [matrix((heads // kv_heads + 2) * head_dim, hidden) for _ in range(kv_heads)]  # [q heads.., k, v]
        tensors |= {
            f"model.layers.{layer}.{name}.weight": tensor
            for name, tensor in {
                "attention_norm": norm(),
                "attention.wqkv": torch.cat(groups),
                "attention.wo": matrix(hidden, hidden),
                "ffn_norm": norm(),
                "feed_forward.w1": matrix(ffn, hidden),
                "feed_forward.w2": matrix(hidden, ffn),
                "feed_forward.w3": matrix(ffn, hidden),
            }.items()
        }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    config = {
        "hidden_size": hidden,
        "intermediate_size": ffn,
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "num_key_value_heads": kv_heads,
        "torch_dtype": str(dtype).removeprefix("torch."),
        **INTERNLM2,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [257, 258]}))
    write_tokenizer(folder)
    name_remote_code(folder)
    return folder


def name_remote_code(folder: Path) -> None:
    """Makes the tokenizer's files name code that creates `folder/EXECUTED`."""
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    tokenizer["tokenizer_class"] = "InternLM2Tokenizer"
    tokenizer["auto_map"] = {
        "AutoTokenizer": ["modeling_internlm2.InternLM2Tokenizer", "modeling_internlm2.InternLM2TokenizerFast"]
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer, indent=2))
    marker = str((folder / "EXECUTED").absolute())
    (folder / "modeling_internlm2.py").write_text(f"open({marker!r}, 'w').close()\n")


def write_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe = Tokenizer(models.BPE(vocab={character: index for index, character in enumerate(alphabet)}, merges=[]))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    fast = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    fast.save_pretrained(folder)


def fixed_batch(rows: int = 8, length: int = 24) -> TrainBatch:
    """Two groups of four with prompts and answers of different lengths, both sources, advantages of both signs."""
    generator = torch.Generator().manual_seed(1)

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator)

    tokens_BT = torch.randint(0, VOCAB, (rows, length), generator=generator)
    prompt_id_B = torch.arange(rows) // 4
    prompt_length_B, length_B = 5 + 2 * prompt_id_B, 11 + torch.arange(rows)
    mask_BS = torch.zeros(rows, length - 1)
    for row, (prompt, end) in enumerate(zip(prompt_length_B.tolist(), length_B.tolist(), strict=True)):
        tokens_BT[row, :prompt] = tokens_BT[row // 4 * 4, :prompt]
        mask_BS[row, prompt - 1 : end - 1] = 1
    return TrainBatch(
        tokens_BT=tokens_BT,
        mask_BS=mask_BS,
        sampler_logprobs_BS=-6 * uniform(rows, length - 1),
        advantages_B=2 * uniform(rows) - 0.4,  # a sum near 0 would magnify rounding in the relative error
        source_B=torch.arange(rows) % 2,
        prompt_length_B=prompt_length_B,
        length_B=length_B,
        prompt_id_B=prompt_id_B,
        sample_id_B=torch.arange(rows) % 4,
        old_logprobs_BS=-6 + 0.4 * uniform(rows, length - 1),
        ref_logprobs_BS=-6 + 0.4 * uniform(rows, length - 1),
    )
