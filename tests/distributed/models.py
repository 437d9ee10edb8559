"""Tiny random Qwen3 folders and a fixed batch, the same in every process."""

from __future__ import annotations

from pathlib import Path

import torch

from s2l_nemo.types import TrainBatch

VOCAB = 304


def write_qwen3(folder: Path, *, tied: bool = True, seed: int = 0, hidden: int = 64, layers: int = 4) -> Path:
    """A random Qwen3 (head_dim unlike hidden / heads) with a byte-level tokenizer, as a Hugging Face folder."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=VOCAB,
        hidden_size=hidden,
        intermediate_size=96,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=24,
        rope_theta=1e6,
        tie_word_embeddings=tied,
        max_position_embeddings=256,
        bos_token_id=None,
        eos_token_id=258,
    )
    model = Qwen3ForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():  # norms of all ones would hide a lost one
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe = Tokenizer(models.BPE(vocab={character: index for index, character in enumerate(alphabet)}, merges=[]))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    fast = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    fast.save_pretrained(folder)
    return folder


def fixed_batch(rows: int = 8, length: int = 24) -> TrainBatch:
    """Prompts of different lengths, answers of different lengths, both sources, advantages of both signs."""
    generator = torch.Generator().manual_seed(1)

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator)

    mask_BS = torch.zeros(rows, length - 1)
    for row in range(rows):
        mask_BS[row, 4 + row % 3 : 10 + row] = 1
    return TrainBatch(
        tokens_BT=torch.randint(0, VOCAB, (rows, length), generator=generator),
        mask_BS=mask_BS,
        sampler_logprobs_BS=-6 * uniform(rows, length - 1),
        advantages_B=2 * uniform(rows) - 0.4,  # a sum near 0 would magnify rounding in the relative error
        source_B=torch.arange(rows) % 2,
        prompt_id_B=torch.arange(rows) // 4,
        sample_id_B=torch.arange(rows) % 4,
        old_logprobs_BS=-6 + 0.4 * uniform(rows, length - 1),
        ref_logprobs_BS=-6 + 0.4 * uniform(rows, length - 1),
    )
