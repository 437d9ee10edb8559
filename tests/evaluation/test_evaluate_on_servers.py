"""An evaluation on two engine servers: the same responses as in this process, whichever server is free first."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file

from s2l_nemo.engines.options import EngineConfig
from s2l_nemo.evaluation.engines import start_engines, write_hugging_face
from s2l_nemo.models.open import open_model
from s2l_nemo.models.precision import Precision
from tests.commands import run_process
from tests.distributed.conversion import to_nemo
from tests.distributed.models import write_qwen3


def test_two_servers_share_the_problems(tmp_path: Path) -> None:
    write_qwen3(tmp_path / "model", layers=2)
    rows = [{"question": f"{n} + 2 = ?", "answer": n + 2} for n in range(12)]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    raw: list[bytes] = []
    for name, kind in (("alone", []), ("served", ["engine.kind=server", "engine.replicas_per_node=2"])):
        done = run_process(
            "recipes/evaluate.py", f"model={tmp_path / 'model'}", "benchmarks=sums", f"evaluate.data={tmp_path}", "k=2",
            f"evaluate.dir={tmp_path / name}", "evaluate.batch_rows=1", "evaluate.max_tokens=10", *kind,
            environment={"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        (file,) = (tmp_path / name).glob("output/*/sums_raw.jsonl")
        raw.append(file.read_bytes())
    assert raw[0] == raw[1]
    assert len(raw[0].splitlines()) == 12
    logs = tmp_path / "served" / "engines" / "model"
    assert sorted(path.name for path in logs.iterdir()) == ["explorer_rank0.log", "explorer_rank1.log"]


def test_a_checkpoint_becomes_the_folder_that_other_engines_read(tmp_path: Path) -> None:
    folder = write_qwen3(tmp_path / "model", layers=2)
    nemo = to_nemo(folder, tmp_path / "nemo")
    write_hugging_face(open_model("model", str(nemo)), tmp_path / "copy")
    mine, copied = (load_file(path / "model.safetensors") for path in (folder, tmp_path / "copy"))
    assert mine.keys() == copied.keys()
    assert all(torch.equal(mine[name], copied[name]) for name in mine)
    for name in ("config.json", "tokenizer.json"):
        assert (tmp_path / "copy" / name).read_bytes() == (folder / name).read_bytes()


def test_an_engine_in_this_process_needs_no_copy(tmp_path: Path) -> None:
    nemo = to_nemo(write_qwen3(tmp_path / "model", layers=2), tmp_path / "nemo")
    engines = start_engines(
        OmegaConf.structured(EngineConfig),
        open_model("model", str(nemo)),
        Precision.fp32,
        "cpu",
        rows=2,
        tokens=20,
        logs=tmp_path / "logs",
    )
    assert (len(engines.engines), engines.copy) == (1, None)
    assert not (tmp_path / "logs").exists()
    assert engines.engines[0].weight_hash()
    engines.close()
