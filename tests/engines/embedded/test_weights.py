"""How weights reach an engine: from a folder, from tensors, by updates."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from s2l_nemo.engines.embedded.engine import EmbeddedEngine, EmbeddedLearnerEngine
from s2l_nemo.errors import UserError
from s2l_nemo.types import Completion, SamplingParams, Source
from tests.arrays import tokens_of
from tests.engines.random_qwen3 import VOCAB, build_model, make_requests

STOPS = (1, 2, 50, 51, 52, 53)  # about one token in sixteen, so that rows end at different steps


def explorer(model: Any) -> EmbeddedEngine:
    return EmbeddedEngine(model, source=Source.EXPLORER, max_batch_rows=64)


def learner(model: Any) -> EmbeddedLearnerEngine:
    return EmbeddedLearnerEngine(model, source=Source.LEARNER, max_batch_rows=64)


def tensors(model: Any) -> dict[str, torch.Tensor]:
    return dict(model.named_parameters())


def greedy(engine: EmbeddedEngine) -> list[Completion]:
    params = SamplingParams(max_new_tokens=12, stop_token_ids=STOPS, temperature=0.0)
    return engine.generate(make_requests(prompts=3, samples=1), params)


@pytest.mark.parametrize("tied", [False, True])
def test_update_weights_replaces_the_model(tied: bool) -> None:
    engine = learner(build_model(tied=tied, seed=0))
    other = build_model(tied=tied, seed=1)
    before = greedy(engine)
    assert engine.weight_version == 0

    names = list(tensors(other))
    assert ("lm_head.weight" in names) is not tied
    engine.update_weights(({name: tensors(other)[name]} for name in names), version=4)
    after = greedy(engine)
    expected = greedy(learner(other))
    assert tokens_of(after) == tokens_of(expected) != tokens_of(before)
    assert engine.weight_version == 4
    assert {completion.weight_version for completion in after} == {4}
    assert engine.weight_hash() == learner(other).weight_hash()


def test_update_weights_copies_in_place() -> None:
    engine = learner(build_model(seed=0))
    sent = {name: tensor.detach().clone() for name, tensor in tensors(build_model(seed=1)).items()}
    engine.update_weights([sent], version=1)
    expected = engine.weight_hash()
    for tensor in sent.values():
        tensor.zero_()
    assert engine.weight_hash() == expected


def broken_updates() -> Iterator[tuple[str, list[dict[str, torch.Tensor]], str]]:
    full = tensors(build_model(seed=1))
    norm = "model.norm.weight"
    rest = {name: tensor for name, tensor in full.items() if name != norm}
    yield "missing", [rest], f"1 tensors are missing, first {norm}"
    yield "unknown", [full, {"model.extra": full[norm]}], "no tensor model.extra"
    yield "repeated", [full, {norm: full[norm]}], f"tensor {norm} came twice"
    yield "shape", [rest, {norm: full[norm][:-1]}], r"shape \(31,\), the model's has \(32,\)"


@pytest.mark.parametrize(("buckets", "message"), [pytest.param(b, m, id=i) for i, b, m in broken_updates()])
def test_an_incomplete_update_is_refused_until_a_complete_one(
    buckets: list[dict[str, torch.Tensor]], message: str
) -> None:
    engine = learner(build_model(seed=0))
    with pytest.raises(ValueError, match=message):
        engine.update_weights(buckets, version=3)
    with pytest.raises(RuntimeError, match="weight version 3 is incomplete"):
        greedy(engine)
    assert engine.weight_version == 0
    engine.update_weights([tensors(build_model(seed=1))], version=4)
    assert greedy(engine)[0].weight_version == 4


def test_a_tied_head_sent_apart_is_refused() -> None:
    model = build_model(tied=True)
    buckets = [tensors(model), {"lm_head.weight": model.lm_head.weight}]
    with pytest.raises(ValueError, match=r"no tensor lm_head.weight \(or it is tied\)"):
        learner(model).update_weights(buckets, version=1)


def test_the_explorer_cannot_be_updated(model: Any) -> None:
    assert not hasattr(EmbeddedEngine, "update_weights")
    engine = explorer(model)
    before = engine.weight_hash()
    completions = engine.generate(make_requests(2, 2), SamplingParams(max_new_tokens=8, stop_token_ids=STOPS))
    assert {(c.source, c.weight_version) for c in completions} == {(Source.EXPLORER, 0)}
    assert engine.weight_hash() == before


def test_weight_hash_sees_every_tensor(model: Any) -> None:
    engine = explorer(model)
    seen = {engine.weight_hash()}
    for tensor in tensors(model).values():
        with torch.no_grad():
            tensor.view(-1)[-1] += 1
        seen.add(engine.weight_hash())
    assert len(seen) == 1 + len(tensors(model))
    assert all(len(digest) == 64 for digest in seen)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_from_pretrained(tmp_path: Path, dtype: torch.dtype) -> None:
    build_model(seed=3).to(dtype).save_pretrained(tmp_path)
    engine = EmbeddedLearnerEngine.from_pretrained(
        tmp_path, source=Source.LEARNER, device="cpu", dtype=dtype, max_batch_rows=4
    )
    assert engine.weight_hash() == learner(build_model(seed=3).to(dtype)).weight_hash()
    completions = greedy(engine)
    assert completions[0].source is Source.LEARNER
    assert all(0 <= token < VOCAB for completion in completions for token in completion.token_ids)


def from_weights(config: dict[str, Any], buckets: list[dict[str, torch.Tensor]], dtype: torch.dtype) -> EmbeddedEngine:
    return EmbeddedEngine.from_weights(
        config, buckets, source=Source.EXPLORER, device="cpu", dtype=dtype, max_batch_rows=64
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tied", [False, True])
def test_from_weights_equals_from_pretrained(tmp_path: Path, tied: bool, dtype: torch.dtype) -> None:
    model = build_model(tied=tied, seed=3).to(dtype)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    # a folder may name code of its own; nothing is looked up
    config["auto_map"] = {"AutoConfig": "remote.Config", "AutoModelForCausalLM": "remote.Model"}
    engine = from_weights(config, [{name: tensor} for name, tensor in tensors(model).items()], dtype)
    loaded = EmbeddedEngine.from_pretrained(
        tmp_path, source=Source.EXPLORER, device="cpu", dtype=dtype, max_batch_rows=64
    )
    assert engine.weight_hash() == loaded.weight_hash()
    assert greedy(engine) == greedy(loaded)
    assert not hasattr(engine, "update_weights")
    assert config["model_type"] == "qwen3"  # the caller's own


@pytest.mark.parametrize(("buckets", "message"), [pytest.param(b, m, id=i) for i, b, m in broken_updates()])
def test_from_weights_needs_every_tensor_once(buckets: list[dict[str, torch.Tensor]], message: str) -> None:
    with pytest.raises(ValueError, match=f"^weights given: .*{message}"):
        from_weights(build_model().config.to_dict(), buckets, torch.float32)


def test_from_pretrained_runs_no_code_of_the_folder(tmp_path: Path) -> None:
    build_model(seed=3).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "remote.Config", "AutoModelForCausalLM": "remote.Model"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "remote.py").write_text(f"open({str(tmp_path / 'EXECUTED')!r}, 'w').close()\n")
    engine = EmbeddedEngine.from_pretrained(
        tmp_path, source=Source.EXPLORER, device="cpu", dtype=torch.float32, max_batch_rows=4
    )
    assert engine.weight_hash() == explorer(build_model(seed=3)).weight_hash()
    assert not (tmp_path / "EXECUTED").exists()


def test_from_pretrained_does_not_depend_on_where_the_file_has_a_tensor(tmp_path: Path) -> None:
    """Sums of a matrix product depend on the alignment of its operands."""
    model = build_model(seed=3)
    engines = []
    for length in range(0, 64, 8):  # of the header, and so of every tensor's offset
        folder = tmp_path / str(length)
        model.config.save_pretrained(folder)
        save_file(tensors(model), folder / "model.safetensors", {"format": "pt", "pad": "x" * length})
        engines.append(
            EmbeddedEngine.from_pretrained(
                folder, source=Source.EXPLORER, device="cpu", dtype=torch.float32, max_batch_rows=64
            )
        )
    first, *others = [greedy(engine) for engine in engines]
    assert others == [first] * 7


def test_from_pretrained_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no config.json"):
        EmbeddedEngine.from_pretrained(
            tmp_path, source=Source.EXPLORER, device="cpu", dtype=torch.float32, max_batch_rows=4
        )
