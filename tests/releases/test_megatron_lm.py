"""Megatron-LM's own `load_checkpoint` and `--use-checkpoint-args` on what is converted for it.

MEGATRON_LM names a clone at any tag from core_v0.11.0 on (`make test-megatron-lm`); without it nothing here runs.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from s2l_nemo.models.checkpoints.open import open_checkpoint
from s2l_nemo.models.checkpoints.to_nemo import Format
from s2l_nemo.models.megatron_lm import load_arguments
from tests.distributed.conversion import to_hf, to_nemo
from tests.distributed.models import LLAMA3, write_internlm2, write_qwen3, write_variant
from tests.megatron_lm import FOR_OTHERS, MODEL, names_of

ROOT = Path(__file__).resolve().parents[2]
VARIABLE = "MEGATRON_LM"
CLONE = Path(os.environ.get(VARIABLE, "")).expanduser().absolute()
LOADER = CLONE / "megatron" / "training" / "checkpointing.py"

pytestmark = pytest.mark.skipif(
    not os.environ.get(VARIABLE), reason=f"{VARIABLE} names no clone of NVIDIA/Megatron-LM (make test-megatron-lm)"
)

# Without Transformer Engine and Apex, and without fused kernels.
HERE = [
    *("--transformer-impl", "local", "--use-cpu-initialization", "--distributed-backend", "gloo"),
    *(f"--no-{name}-fusion" for name in ("masked-softmax", "bias-swiglu", "bias-dropout", "rope")),
    *("--no-gradient-accumulation-fusion", "--no-persist-layer-norm", "--no-save-optim", "--no-save-rng"),
    *("--tokenizer-type", "NullTokenizer", "--vocab-size", "99"),
    *("--micro-batch-size", "1", "--lr", "1e-6", "--train-iters", "1", "--lr-decay-style", "constant"),
]
STRETCHED = LLAMA3 | {"original_max_position_embeddings": 8192}  # Megatron-LM knows no other


def test_the_clone_is_one() -> None:
    assert LOADER.is_file(), f"{VARIABLE}={CLONE} has no megatron/training: clone NVIDIA/Megatron-LM there"


def test_no_name_is_new_to_us() -> None:
    assert names_of(CLONE) - MODEL - FOR_OTHERS == set()


@pytest.fixture(scope="module")
def tokens_BT() -> torch.Tensor:
    return torch.randint(0, 300, (2, 9), generator=torch.Generator().manual_seed(0))


def write(name: str, folder: Path) -> Path:
    match name:
        case "qwen3 tied":
            return write_qwen3(folder, layers=2)
        case "qwen3":
            return write_qwen3(folder, layers=2, tied=False)
        case "internlm2":
            return write_internlm2(folder, layers=2)
        case "llama3":
            return write_variant(folder, name, rope_scaling=STRETCHED, max_position_embeddings=65536)
    return write_variant(folder, name)


def expected(folder: Path, tokens_BT: torch.Tensor) -> dict[str, torch.Tensor]:
    """`logprobs` [B, T - 1] and `inv_freq` as transformers has them."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    with torch.no_grad():
        logprobs_BSV = model(tokens_BT).logits[:, :-1].log_softmax(-1)
    logprobs_BS = logprobs_BSV.gather(-1, tokens_BT[:, 1:, None]).squeeze(-1)
    return {"logprobs": logprobs_BS, "inv_freq": model.model.rotary_emb.inv_freq}


def run_loader(root: Path, tokens: Path, output: Path, ranks: int, arguments: list[str]) -> str:
    """Standard output of the first rank. It fails with standard error of the first rank that failed."""
    output.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    paths = [str(CLONE), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    shared = {"PYTHONPATH": ":".join(paths), "OMP_NUM_THREADS": "1", "CUDA_DEVICE_MAX_CONNECTIONS": "1"}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(ranks)}
    command = [sys.executable, "-W", "ignore", "-m", "tests.releases.megatron_lm", str(tokens), str(output)]
    logs = [output / f"rank{rank}.log" for rank in range(ranks)]
    processes = []
    for rank, log in enumerate(logs):
        with log.open("w") as file:
            environment = os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            process = subprocess.Popen(
                [*command, "--load", str(root), *arguments, *HERE],
                cwd=ROOT,
                env=environment,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
            processes.append(process)
    try:
        codes = [process.wait(timeout=600) for process in processes]
    finally:
        for process in processes:
            process.kill()
    said = [log.read_text() for log in logs]
    assert codes == [0] * ranks, "\n".join(text[-3000:] for text in said)
    assert f"{CLONE}/megatron/core" in said[0]  # not the one of the environment
    return said[0]


@pytest.mark.parametrize(
    ("name", "tp", "pp"),
    [
        ("qwen3 tied", 1, 1),
        ("qwen3 tied", 2, 1),
        ("qwen3 tied", 1, 2),
        ("qwen3", 2, 1),
        ("qwen2", 2, 1),
        ("qwen2 tied", 1, 1),
        ("llama3", 2, 1),
        ("internlm2", 2, 1),
    ],
)
def test_its_loader_takes_ours_and_ours_reads_what_it_saves(
    name: str, tp: int, pp: int, tokens_BT: torch.Tensor, tmp_path: Path
) -> None:
    source = write(name, tmp_path / "source")
    checkpoint = open_checkpoint(source)
    root = to_nemo(source, tmp_path / "root", Format.MEGATRON)
    save_file({"tokens": tokens_BT}, tmp_path / "tokens.safetensors")
    parallel = ["--tensor-model-parallel-size", str(tp), "--pipeline-model-parallel-size", str(pp)]
    arguments = [*load_arguments(checkpoint.shape, checkpoint.dtype), *parallel]
    said = run_loader(root, tmp_path / "tokens.safetensors", tmp_path / "output", tp * pp, arguments)
    assert "successfully loaded checkpoint" in said

    computed = load_file(tmp_path / "output" / "computed.safetensors")
    llama = to_hf(source, tmp_path / "llama", engine_form=True) if name == "internlm2" else source
    theirs = expected(llama, tokens_BT)
    torch.testing.assert_close(computed["inv_freq"], theirs["inv_freq"], rtol=1e-6, atol=0)
    assert ("logprobs" in computed) == (pp == 1)
    if pp == 1:
        assert (computed["logprobs"] - theirs["logprobs"]).abs().max() < 1e-5

    back = to_hf(tmp_path / "output" / "root", tmp_path / "back", hf_files=source)
    saved, first = load_file(back / "model.safetensors"), load_file(source / "model.safetensors")
    assert saved.keys() == first.keys()
    assert all(torch.equal(saved[key], first[key]) for key in first)
