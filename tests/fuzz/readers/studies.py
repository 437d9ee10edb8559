"""Readers of a folder of runs that are reproduced and reported, and of what a run began with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from s2l_nemo.models.checkpoints.adapter import LoraAdapter
from s2l_nemo.models.formats.dtypes import FLOAT32
from s2l_nemo.models.formats.safetensors_folder import SafetensorsFolder
from s2l_nemo.models.hf_config import config_of_shape
from s2l_nemo.models.open import open_model
from s2l_nemo.records.checkpoints import publish_checkpoint
from s2l_nemo.records.identity import (
    IDENTITY,
    ROWS,
    TOKENS,
    Fingerprint,
    changed_parts,
    found_differences,
    settle_identity,
)
from s2l_nemo.reproduction.ledger import Ledger
from s2l_nemo.reproduction.outcomes import final_steps
from s2l_nemo.reproduction.plan import Job, JobKind
from s2l_nemo.reproduction.report.claims import read_claims
from s2l_nemo.trainer.early import check_token_ids
from tests.character_tokenizer import character_tokenizer
from tests.fuzz.mutate import Mutate, damage, json_damage, mixed, safetensors_damage
from tests.fuzz.reader import Harness, Reader
from tests.models.shapes import small_shape

NAME = "model.layers.0.mlp.up_proj"
MATRICES = {
    f"base_model.model.{NAME}.lora_A.weight": torch.zeros(2, 3),
    f"base_model.model.{NAME}.lora_B.weight": torch.ones(4, 2),
}
ADAPTER = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "rank_pattern": {"up_proj": 2}, "alpha_pattern": {}}


def adapter_file(name: str, mutate: Mutate) -> Callable[[Path], Harness]:
    """One file of a LoRA adapter that is merged: its configuration or its matrices."""

    def prepare(folder: Path) -> Harness:
        contents = {
            "adapter_config.json": json.dumps(ADAPTER).encode(),
            "adapter_model.safetensors": save(MATRICES),
        }
        for other, content in contents.items():
            (folder / other).write_bytes(content)
        (folder / "base").mkdir()
        (folder / "base" / "model.safetensors").write_bytes(save({f"{NAME}.weight": torch.ones(4, 3)}))
        base = SafetensorsFolder(folder / "base")

        def read(_: bytes) -> None:
            adapter = LoraAdapter(folder)
            adapter.check(base.tensors)
            stored = base.tensors[f"{NAME}.weight"]
            merged = adapter.merged(f"{NAME}.weight", base.rows(f"{NAME}.weight"), stored.dtype, stored.dtype)
            for part in merged or ():
                part.read_into(0, memoryview(bytearray(len(part) * part.row_bytes)))

        return Harness([contents[name]], read, folder / name, mutate)

    return prepare


def of_json(name: str, content: Any, read: Callable[[Path], object]) -> Callable[[Path], Harness]:
    """A JSON file of a folder."""

    def prepare(folder: Path) -> Harness:
        return Harness([json.dumps(content).encode()], lambda _: read(folder), folder / name, json_damage)

    return prepare


def run_identity(folder: Path) -> Harness:
    """identity.json in a run that goes on, and in what compares its validations."""
    temporary = folder / "checkpoints" / "made"
    temporary.mkdir(parents=True)
    publish_checkpoint(temporary, folder / "checkpoints" / "step_000001")
    facts = {"weights": "ab", f"{ROWS}sums": "12+", f"0/{TOKENS}": "cd"}
    now = {name: Fingerprint(name, facts) for name in ("learner", "training_data", "tokenizer")}
    settle_identity(folder, now, (), None)
    content = json.loads((folder / IDENTITY).read_bytes())
    content["changed"] = [{"part": "validation_data/x", "step": 3, "what": "a", "before": "b", "after": "c"}]

    def read(_: bytes) -> None:
        changed_parts(folder)
        [one.in_words() for one in found_differences(folder, now)]

    return Harness([json.dumps(content).encode()], read, folder / IDENTITY, json_damage)


def ledger(folder: Path) -> None:
    """The jobs of a call that goes on: one that is in the plan, and one that is not."""
    jobs = [
        Job(f"{name}-1", name, 1, JobKind.train, folder / name, folder / "log", ("x",), steps=4)
        for name in ("s2l", "grpo")
    ]
    entries = Ledger(folder, jobs).entries.values()
    json.dumps([entry.to_json() for entry in entries])


def tokens_of_model(folder: Path) -> Harness:
    """tokenizer.json, as it is looked at before Transformers reads it."""
    shape = small_shape(family="qwen3", vocab=10_000)
    (folder / "config.json").write_text(json.dumps(config_of_shape(shape, FLOAT32)))
    character_tokenizer().save_pretrained(folder)
    seeds = [(folder / "tokenizer.json").read_bytes()]
    model = open_model("model.path", str(folder))
    return Harness(seeds, lambda _: check_token_ids(model), folder / "tokenizer.json", json_damage)


CLAIM = {
    "id": "a", "text": "b", "source": "Table 1", "experiments": ["s2l", "grpo"], "metric": "pass@1", "difference": 0.1,
    "low": 0.0, "high": 0.2, "bound": 0.01, "verdict": "undecided", "seeds": [1, 2], "problems": 3, "rule": "c",
    "note": "",
}  # fmt: skip
JOB = {
    "name": "s2l-1", "experiment": "s2l", "seed": 1, "kind": "train", "status": "done", "command": "python x",
    "folder": "s2l/seed_1", "log": "logs/x", "seconds": 1.5, "code": 0, "slurm_id": None,
}  # fmt: skip
READERS = (
    Reader("merged-adapter", ("models.checkpoints.adapter",), adapter_file("adapter_config.json", json_damage)),
    Reader(
        "merged-matrices",
        ("models.checkpoints.adapter",),
        adapter_file("adapter_model.safetensors", mixed(damage, safetensors_damage)),
    ),
    Reader("run-identity", ("records.identity",), run_identity),
    Reader("plan", ("reproduction.ledger",), of_json("plan.json", {"jobs": [JOB]}, ledger)),
    Reader("final-steps", ("reproduction.outcomes",), of_json("summary.json", {"steps": 4}, final_steps)),
    Reader(
        "claims",
        ("reproduction.report.claims",),
        of_json("claims.json", [CLAIM], lambda folder: read_claims(folder / "claims.json")),
    ),
    Reader("token-ids", ("trainer.early",), tokens_of_model, 100),
)
