"""Run by tests under one release of megatron-core: loads a Megatron root, computes log-probs, writes a root of its own.

    PYTHONPATH=RELEASE:REPOSITORY python -m tests.releases.release ROOT TOKENS OUTPUT

ROOT is what `convert_hf_to_nemo.py --format megatron` has made. TOKENS is a safetensors file with `tokens` [B, T].
OUTPUT is an empty folder. There come `logprobs.safetensors` [B, T - 1] and `root/`, written by the release at TP 2.
"""

from __future__ import annotations

import os
import sys
import typing
from argparse import Namespace
from inspect import signature
from pathlib import Path
from typing import Any, cast

import torch
import typing_extensions
from safetensors.torch import load_file, save_file
from torch.multiprocessing.spawn import spawn

from s2l_nemo.platform import cpu

TP = 2


def model_of(args: Namespace) -> Any:
    """The GPT model that the arguments in `common.pt` describe, as Megatron-LM's `pretrain_gpt.py` builds it."""
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
    from megatron.core.models.gpt.gpt_model import GPTModel
    from megatron.core.transformer.transformer_block import TransformerBlockSubmodules
    from megatron.core.transformer.transformer_config import TransformerConfig

    class Norm(torch.nn.RMSNorm):
        def __init__(self, config: Any, hidden_size: int, eps: float = 1e-6, **_: Any) -> None:
            super().__init__(hidden_size, eps=eps)

    config = TransformerConfig(
        num_layers=args.num_layers,
        hidden_size=args.hidden_size,
        ffn_hidden_size=args.ffn_hidden_size,
        num_attention_heads=args.num_attention_heads,
        num_query_groups=args.num_query_groups,
        kv_channels=args.kv_channels,
        normalization=args.normalization,
        layernorm_epsilon=args.norm_epsilon,
        gated_linear_unit=args.swiglu,
        activation_func=torch.nn.functional.silu,
        add_bias_linear=args.add_bias_linear,
        qk_layernorm=args.qk_layernorm,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        tensor_model_parallel_size=TP,
        use_cpu_initialization=True,
        bias_activation_fusion=False,
        masked_softmax_fusion=False,
        pipeline_dtype=torch.float32,
    )
    # 0.11 has no such parameter, and later ones ask for Apex without it
    rms = {"normalization": "RMSNorm"} if "normalization" in signature(get_gpt_layer_local_spec).parameters else {}
    spec = get_gpt_layer_local_spec(qk_layernorm=args.qk_layernorm, **rms)
    modules = spec.submodules
    modules.input_layernorm = modules.pre_mlp_layernorm = Norm
    attention = modules.self_attention.submodules
    if args.qk_layernorm:
        attention.q_layernorm = attention.k_layernorm = Norm
    return GPTModel(
        config=config,
        transformer_layer_spec=TransformerBlockSubmodules(layer_specs=[spec] * args.num_layers, layer_norm=Norm),
        vocab_size=args.padded_vocab_size,
        max_sequence_length=args.max_position_embeddings,
        position_embedding_type="rope",
        rotary_base=args.rotary_base,
        share_embeddings_and_output_weights=not args.untie_embeddings_and_output_weights,
        parallel_output=True,
    )


def logprobs_of(model: Any, tokens_BT: torch.Tensor) -> torch.Tensor:
    """[B, T - 1], of the whole vocabulary, which the ranks share."""
    from megatron.core import tensor_parallel

    length = tokens_BT.shape[1]
    positions_BT = torch.arange(length).expand_as(tokens_BT)
    mask_11TT = torch.ones(length, length).tril().logical_not()[None, None]
    with torch.no_grad():
        logits_BTV = model(tokens_BT, positions_BT, mask_11TT)
        whole_BTV = tensor_parallel.gather_from_tensor_model_parallel_region(logits_BTV)
    logprobs_BSV = whole_BTV[:, :-1].float().log_softmax(-1)
    logprobs_BS: torch.Tensor = logprobs_BSV.gather(-1, tokens_BT[:, 1:, None]).squeeze(-1)
    return logprobs_BS


def work(rank: int, root: Path, tokens: Path, output: Path) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(TP)}
    give_python_its_names()
    cpu.install()
    from megatron.core import dist_checkpointing, parallel_state, tensor_parallel

    give_torch_its_arguments()
    torch.distributed.init_process_group("gloo", init_method=f"file://{output}/rendezvous", rank=rank, world_size=TP)
    parallel_state.initialize_model_parallel(tensor_model_parallel_size=TP)
    tensor_parallel.model_parallel_cuda_manual_seed(1)
    source = root / (root / "latest_checkpointed_iteration.txt").read_text()
    common = dist_checkpointing.load_common_state_dict(str(source))
    model = model_of(common["args"])
    loaded = dist_checkpointing.load({"model": model.sharded_state_dict()}, str(source))
    model.load_state_dict(loaded["model"], strict=True)
    logprobs_BS = logprobs_of(model, load_file(tokens)["tokens"])
    folder = output / "root" / "iter_0000001"
    if rank == 0:
        save_file({"logprobs": logprobs_BS.contiguous()}, output / "logprobs.safetensors")
        folder.mkdir(parents=True)
    torch.distributed.barrier()
    state = {"model": model.sharded_state_dict(), "args": common["args"], "iteration": 1, "checkpoint_version": 3.0}
    dist_checkpointing.save(state, str(folder))
    if rank == 0:
        (output / "root" / "latest_checkpointed_iteration.txt").write_text("1")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def give_python_its_names() -> None:
    """Releases from 0.17 on are for Python 3.12. Of what 3.11 lacks they use this name alone."""
    cast(Any, typing).override = typing_extensions.override


def give_torch_its_arguments() -> None:
    """Releases before 0.13 call a private function of torch without the arguments that torch 2.7 has added."""
    from megatron.core.dist_checkpointing.strategies import filesystem_async
    from torch.distributed.checkpoint import filesystem

    writer, torchs = cast(Any, filesystem_async), cast(Any, filesystem)
    if "serialization_format" in Path(writer.__file__).read_text():
        return

    def write_item(*args: Any) -> Any:  # 0.11 gives four, 0.12 the transforms before them
        transforms = () if len(args) == 5 else (torchs._StorageWriterTransforms(),)
        return torchs._write_item(*transforms, *args, serialization_format=torchs.SerializationFormat.TORCH_SAVE)

    writer._write_item = write_item


def main() -> None:
    root, tokens, output = map(Path, sys.argv[1:])
    give_python_its_names()
    import megatron.core

    print(megatron.core.__version__, megatron.core.__file__)
    spawn(work, (root, tokens, output), nprocs=TP)


if __name__ == "__main__":
    main()
