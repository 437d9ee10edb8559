"""Releases of megatron-core, each in a process of its own: they load what is converted for them, and what they write is
read. `make test-megatron` installs them and names their folder; without it nothing here runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from s2l_nemo.models.checkpoints.to_nemo import Format
from tests.distributed.conversion import to_hf, to_nemo
from tests.distributed.models import write_qwen3

ROOT = Path(__file__).resolve().parents[2]
VARIABLE = "MEGATRON_RELEASES"
FOLDER = Path(os.environ.get(VARIABLE, ""))
RELEASES = sorted(path.name for path in FOLDER.iterdir() if path.is_dir()) if VARIABLE in os.environ else []

pytestmark = pytest.mark.skipif(not RELEASES, reason=f"{VARIABLE} names no folder (make test-megatron)")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_qwen3(tmp_path_factory.mktemp("source"), tied=False, layers=2)


@pytest.fixture(scope="module")
def tokens_BT() -> torch.Tensor:
    return torch.randint(0, 300, (2, 9), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def expected_BS(source: Path, tokens_BT: torch.Tensor) -> torch.Tensor:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(source, attn_implementation="eager").eval()
    with torch.no_grad():
        logprobs_BSV = model(tokens_BT).logits[:, :-1].log_softmax(-1)
    logprobs_BS: torch.Tensor = logprobs_BSV.gather(-1, tokens_BT[:, 1:, None]).squeeze(-1)
    return logprobs_BS


@pytest.mark.parametrize("release", RELEASES)
def test_a_release_loads_ours_and_ours_reads_its_own(
    release: str, source: Path, tokens_BT: torch.Tensor, expected_BS: torch.Tensor, tmp_path: Path
) -> None:
    root = to_nemo(source, tmp_path / "root", Format.MEGATRON)
    save_file({"tokens": tokens_BT}, tmp_path / "tokens.safetensors")
    output = tmp_path / "output"
    output.mkdir()
    path = os.pathsep.join(map(str, [FOLDER / release, ROOT, os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run(
        [sys.executable, "-m", "tests.releases.release", root, tmp_path / "tokens.safetensors", output],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert f"{FOLDER / release}/megatron/core" in done.stdout  # not the one of the environment
    assert (load_file(output / "logprobs.safetensors")["logprobs"] - expected_BS).abs().max() < 1e-5
    back = to_hf(output / "root", tmp_path / "back", hf_files=source)
    mine, theirs = load_file(back / "model.safetensors"), load_file(source / "model.safetensors")
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
