"""Real checkpoints through the whole stack, if they are there: `REAL_MODELS` names the folder that holds them.

SmolLM2-135M-Instruct is a Llama of 9 heads, of which 3 share a KV head, and is tied. Qwen2.5-Coder-0.5B-Instruct has
biases of queries, keys and values. They take minutes and gigabytes, so they are no part of the tests otherwise.
"""

from __future__ import annotations

import functools
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors import safe_open

from s2l_nemo.algorithm.losses.aggregation import LossScale
from s2l_nemo.algorithm.losses.policy import PolicyLoss
from s2l_nemo.algorithm.options import AlgorithmConfig
from s2l_nemo.config.checks import check_model_files
from s2l_nemo.config.load import load_config
from s2l_nemo.config.schema import ModelConfig
from s2l_nemo.engines.embedded.engine import EmbeddedLearnerEngine
from s2l_nemo.errors import UserError
from s2l_nemo.models.checkpoints.compare import compare
from s2l_nemo.models.checkpoints.open import open_checkpoint
from s2l_nemo.models.checkpoints.to_nemo import Format
from s2l_nemo.models.open import open_model
from s2l_nemo.types import SampleRequest, SamplingParams, Source, TrainBatch
from tests.distributed.conversion import to_hf, to_nemo
from tests.distributed.ranks import run_ranks
from tests.distributed.test_layouts import TEMPERATURE, hugging_face_logprobs
from tests.distributed.test_training import CONF

if TYPE_CHECKING:
    from s2l_nemo.actor.actor import S2LActor

VARIABLE = "REAL_MODELS"
FOLDER = Path(os.environ.get(VARIABLE, "absent"))
SMOLLM2, QWEN = "SmolLM2-135M-Instruct", "Qwen2.5-Coder-0.5B-Instruct"
MODELS = [SMOLLM2, QWEN]
LAYOUTS = [(SMOLLM2, 1, 1), (SMOLLM2, 3, 1), (SMOLLM2, 1, 2), (SMOLLM2, 3, 2), (QWEN, 2, 1), (QWEN, 1, 2), (QWEN, 2, 2)]
QUESTIONS = ["What is 23 + 58?", "Tom has 12 apples and eats 5. How many are left? Put the answer in \\boxed{}.", "Hi"]
BOUND = 1e-4  # nats a token, in float32
PARAMS = SamplingParams(max_new_tokens=24, stop_token_ids=(), temperature=TEMPERATURE)

pytestmark = pytest.mark.skipif(
    not FOLDER.is_dir(), reason=f"{VARIABLE} names no folder with {' and '.join(MODELS)} (Hugging Face folders)"
)


def requests(path: Path) -> list[SampleRequest]:
    """Two samples of each question, in the model's own chat template."""
    tokenizer = open_model("model.path", str(path)).tokenizer
    prompts = [
        tokenizer.apply_chat_template([{"role": "user", "content": question}], add_generation_prompt=True)
        for question in QUESTIONS
    ]
    return [SampleRequest(p, s, tuple(prompt), 10 * p + s) for p, prompt in enumerate(prompts) for s in range(2)]


def engine_of(path: Path) -> EmbeddedLearnerEngine:
    return EmbeddedLearnerEngine.from_pretrained(
        path, source=Source.LEARNER, device=torch.device("cpu"), dtype=torch.float32, max_batch_rows=8
    )


def batch_of(asked: list[SampleRequest], completions: list[Any]) -> TrainBatch:
    """What was sampled, with the sampler's log-probs."""
    rows = [
        [*request.prompt_token_ids, *done.token_ids.tolist()] for request, done in zip(asked, completions, strict=True)
    ]
    longest = max(map(len, rows))
    prompt_B = torch.tensor([len(request.prompt_token_ids) for request in asked])
    mask_BS, sampler_BS = torch.zeros(len(rows), longest - 1), torch.zeros(len(rows), longest - 1)
    for row, done in enumerate(completions):
        response = slice(int(prompt_B[row]) - 1, len(rows[row]) - 1)
        mask_BS[row, response] = 1
        sampler_BS[row, response] = torch.from_numpy(done.logprobs)
    return TrainBatch(
        tokens_BT=torch.tensor([row + [0] * (longest - len(row)) for row in rows]),
        mask_BS=mask_BS,
        sampler_logprobs_BS=sampler_BS,
        advantages_B=torch.tensor([1.0, -1.0] * (len(rows) // 2)),
        source_B=torch.ones(len(rows), dtype=torch.long),
        prompt_length_B=prompt_B,
        length_B=torch.tensor([len(row) for row in rows]),
        prompt_id_B=torch.tensor([request.prompt_id for request in asked]),
        sample_id_B=torch.tensor([request.sample_id for request in asked]),
        old_logprobs_BS=sampler_BS,
        ref_logprobs_BS=sampler_BS,
    )


def actor_of(checkpoint: Path, tp: int, pp: int) -> S2LActor:
    from s2l_nemo.actor.build import build_actor, init_process_groups

    config = ModelConfig(path=str(checkpoint), tensor_model_parallel_size=tp, pipeline_model_parallel_size=pp)
    config.micro_batch_size = 2
    init_process_groups(config, timeout_s=1800)
    return build_actor(
        config,
        open_model("model.path", str(checkpoint)),
        num_nodes=1,
        sequence_length=256,
        global_batch_size=6,
        optimizer_steps=1,
        refit_bucket_bytes=64 * 2**20,
        seed=1,
        keeps_reference=False,
    )


def exported_equals(actor: Any, path: Path) -> bool:
    """Whether every tensor of a refit has the bits of the file, widened to float32."""
    with safe_open(path / "model.safetensors", "pt") as file:
        names, equal = set(file.keys()), True
        for bucket in actor.export_weights():
            for name, tensor in bucket.items():
                equal &= torch.equal(tensor, file.get_tensor(name).float())
                names.remove(name)
    return equal and names <= {"lm_head.weight"}  # of a tied model: it repeats the embedding


def through_the_actor(checkpoint: Path, path: Path, refit: Path, batch: TrainBatch, tp: int, pp: int) -> dict[str, Any]:
    """Log-probs before and after an update, whose buckets go to the folder `refit`: engine and actor are large."""
    actor = actor_of(checkpoint, tp, pp)
    before_BS, _ = actor.infer(batch, TEMPERATURE)
    equal = exported_equals(actor, path)
    loss = PolicyLoss.of(AlgorithmConfig(kl_coef=0.0))
    actor.prepare_for_training()
    actor.prepare_for_training_step()
    sums = actor.get_loss_and_metrics(batch, loss, LossScale(int(batch.mask_BS.sum()), len(batch), 64), TEMPERATURE)
    actor.finish_training_step()
    updated = {**sums, **actor.optimizer_step(sums["loss_sum"])}
    actor.finish_training()
    after_BS, _ = actor.infer(batch, TEMPERATURE)
    for number, bucket in enumerate(actor.export_weights()):
        if torch.distributed.get_rank() == 0:
            torch.save(bucket, refit / f"{number:04}.pt")
    return {"before": before_BS, "after": after_BS, "equal": equal, "update": updated}


def path_of(name: str) -> Path:
    if not (FOLDER / name).is_dir():
        pytest.skip(f"{VARIABLE}={FOLDER} has no folder {name}")
    return FOLDER / name


@functools.cache
def sampled(name: str) -> TrainBatch:
    """What the embedded engine samples from the model."""
    asked = requests(path_of(name))
    return batch_of(asked, engine_of(path_of(name)).generate(asked, PARAMS))


@pytest.mark.parametrize("name", MODELS)
def test_there_and_back_is_bit_for_bit(tmp_path: Path, name: str) -> None:
    source = path_of(name)
    back = to_hf(to_nemo(source, tmp_path / "model.nemo", Format.NEMO), tmp_path / "back")
    one, other = open_checkpoint(source), open_checkpoint(back)
    assert list(compare(one, other, lambda count: None)) == []
    assert one.redundant_output == other.redundant_output
    with safe_open(source / "model.safetensors", "pt") as mine, safe_open(back / "model.safetensors", "pt") as theirs:
        assert set(mine.keys()) == set(theirs.keys())
        for key in mine.keys():  # noqa: SIM118  # not a mapping
            assert torch.equal(mine.get_tensor(key).view(torch.int16), theirs.get_tensor(key).view(torch.int16)), key
    for file in source.iterdir():
        if "safetensors" not in file.name:
            assert (back / file.name).read_bytes() == file.read_bytes()


@pytest.mark.parametrize("name", MODELS)
def test_samples_have_the_log_probs_of_transformers(name: str) -> None:
    from transformers import AutoModelForCausalLM

    batch = sampled(name)
    model = AutoModelForCausalLM.from_pretrained(FOLDER / name, torch_dtype=torch.float32).eval()
    expected_BS, _ = hugging_face_logprobs(model, batch)
    gap = (expected_BS * batch.mask_BS - batch.sampler_logprobs_BS).abs().max()
    print(f"{name}: sampler - transformers {gap:.2g} over {int(batch.mask_BS.sum())} tokens")
    assert gap < BOUND
    tokens = set(batch.tokens_BT.flatten().tolist())
    assert len(tokens) > 50


@pytest.mark.parametrize(("name", "tp", "pp"), LAYOUTS)
def test_the_actor_computes_what_transformers_computes(tmp_path: Path, name: str, tp: int, pp: int) -> None:
    path, batch = path_of(name), sampled(name)
    checkpoint = to_nemo(path, tmp_path / "model", Format.NEMO_DIR)
    refit = tmp_path / "refit"
    refit.mkdir()
    first, *others = run_ranks(through_the_actor, tp * pp, checkpoint, path, refit, batch, tp, pp)
    engine = engine_of(path)
    engine.update_weights((torch.load(file) for file in sorted(refit.iterdir())), 1)
    engine_BS, _ = hugging_face_logprobs(engine._model, batch)
    shutil.rmtree(tmp_path)  # gigabytes
    sampler_gap = (first["before"] - batch.sampler_logprobs_BS).abs().max()
    refit_gap = (engine_BS - first["after"]).abs().max()
    loss, norm = (first["update"][key] for key in ("loss_sum", "grad_norm"))
    print(f"{name} TP {tp} PP {pp}: actor - sampler {sampler_gap:.2g}, engine - actor after an update {refit_gap:.2g}, "
          f"loss {loss:.7g}, gradient norm {norm:.7g}")  # fmt: skip
    for rank in (first, *others):
        assert rank["equal"]
        assert (rank["before"] - batch.sampler_logprobs_BS).abs().max() < BOUND
        assert (rank["after"] - rank["before"]).abs().max() > BOUND
    assert refit_gap < BOUND


def test_a_layout_that_cuts_a_head_is_refused() -> None:
    path = path_of(SMOLLM2)
    options = [f"model.path={path}", f"explorer.path={path}", "model.tensor_model_parallel_size=2", "trainer.devices=2"]
    with pytest.raises(UserError, match=r"size=2 does not divide num_attention_heads=9 of"):
        check_model_files(load_config(options, CONF))
