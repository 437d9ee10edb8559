"""The kinds of faults that people's own files and bug reports showed: a test each, under its number.

The table is in docs/conversion.md.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from s2l_nemo.errors import UserError
from s2l_nemo.models.checkpoints.command import run_command
from s2l_nemo.models.checkpoints.open import open_checkpoint
from s2l_nemo.models.checkpoints.to_nemo import Format
from s2l_nemo.models.formats.manifest import check_manifest
from s2l_nemo.models.formats.output import new_output
from tests.distributed.conversion import to_hf, to_nemo
from tests.distributed.models import write_qwen3
from tools import convert_hf_to_nemo, convert_nemo_to_hf, verify_checkpoint


@pytest.fixture(scope="module")
def hf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_qwen3(tmp_path_factory.mktemp("hf"), tied=False, layers=2)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_qwen3(tmp_path_factory.mktemp("other"), tied=False, layers=2, seed=1)


@pytest.fixture(scope="module")
def nemo(hf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return to_nemo(hf, tmp_path_factory.mktemp("nemo") / "nemo", Format.NEMO_DIR)


def refused(path: Path) -> str:
    with pytest.raises(UserError) as error:
        open_checkpoint(path)
    return str(error.value)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def edited_hf(hf: Path, folder: Path, **config: Any) -> Path:
    shutil.copytree(hf, folder)
    stated = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**stated, **config}))
    return folder


def edited_nemo(nemo: Path, folder: Path, **config: Any) -> Path:
    shutil.copytree(nemo, folder)
    stated = yaml.safe_load((folder / "model_config.yaml").read_text())
    (folder / "model_config.yaml").write_text(yaml.safe_dump({**stated, **config}))
    return folder


def megatron_root(hf: Path, other: Path, root: Path) -> Path:
    """`release/` of one model, `iter_0000010/` of another, and a tracker that says 10."""
    to_nemo(hf, root, Format.MEGATRON)
    newer = to_nemo(other, root.parent / "newer", Format.MEGATRON)
    (newer / "release").rename(root / "iter_0000010")
    (root / "latest_checkpointed_iteration.txt").write_text("10\n")
    return root


def test_c01_a_megatron_root_exports_the_iteration_that_its_tracker_names(
    hf: Path, other: Path, tmp_path: Path
) -> None:
    root = megatron_root(hf, other, tmp_path / "root")
    exported = weights(to_hf(root, tmp_path / "ten"))
    assert all(torch.equal(exported[name], x) for name, x in weights(other).items())
    (root / "latest_checkpointed_iteration.txt").write_text("release")
    exported = weights(to_hf(root, tmp_path / "release"))
    assert all(torch.equal(exported[name], x) for name, x in weights(hf).items())
    for stated, said in (("7", "iter_0000007, which is missing"), ("ten", "'ten'"), ("-1", "'-1'")):
        (root / "latest_checkpointed_iteration.txt").write_text(stated)
        assert said in refused(root)
    (root / "latest_checkpointed_iteration.txt").unlink()
    assert "iter_0000010, release and no latest_checkpointed_iteration.txt" in refused(root)


class MCoreMetadata:
    """As megatron-core 0.15.0 pickles it."""


def test_c03_metadata_of_megatron_core_0_15(nemo: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(nemo, tmp_path / "source"))
    file = source / "model_weights" / ".metadata"
    metadata = pickle.loads(file.read_bytes())  # noqa: S301  written by this test
    theirs = MCoreMetadata()
    theirs.__dict__.update(vars(metadata))
    content = pickle.dumps(theirs, protocol=2)
    name = f"{MCoreMetadata.__module__}\nMCoreMetadata\n".encode()
    assert name in content
    file.write_bytes(content.replace(name, b"megatron.core.dist_checkpointing.strategies.torch\nMCoreMetadata\n"))
    exported = weights(to_hf(source, tmp_path / "out"))
    original = weights(to_hf(nemo, tmp_path / "original"))
    assert all(torch.equal(exported[name], x) for name, x in original.items())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seq_len_interpolation_factor", 2.0),
        ("window_size", [128, 0]),
        ("rotary_interleaved", True),
        ("apply_embedding_scaling", True),
        ("transformer_block_type", "post_ln"),
        ("a_key_of_next_year", 0.5),
    ],
)
def test_c04_keys_that_may_change_the_model_are_refused(nemo: Path, tmp_path: Path, key: str, value: Any) -> None:
    assert f"{key}=" in refused(edited_nemo(nemo, tmp_path / "source", **{key: value}))


def test_c04_neutral_values_and_sections_of_training_are_taken(nemo: Path, tmp_path: Path) -> None:
    neutral = {"seq_len_interpolation_factor": 1.0, "window_size": None, "rotary_interleaved": False}
    training = {"optim": {"name": "fused_adam"}, "activations_checkpoint_method": "uniform", "seed": 3}
    open_checkpoint(edited_nemo(nemo, tmp_path / "source", **neutral, **training))


def test_c05_common_pt_has_what_megatron_lm_reads(hf: Path, tmp_path: Path) -> None:
    root = to_nemo(hf, tmp_path / "root", Format.MEGATRON)
    assert (root / "latest_checkpointed_iteration.txt").read_text() == "release"
    with torch.serialization.safe_globals([Namespace]):
        common = torch.load(root / "release" / "common.pt", weights_only=True)
    assert (common["iteration"], common["checkpoint_version"]) == (0, 3.0)
    arguments = common["args"]
    config = json.loads((hf / "config.json").read_text())
    assert isinstance(arguments, Namespace)
    assert arguments.num_layers == config["num_hidden_layers"]
    assert arguments.kv_channels == config["head_dim"]
    assert arguments.rotary_base == config["rope_theta"]
    assert arguments.untie_embeddings_and_output_weights is True
    assert arguments.params_dtype is torch.float32
    assert (arguments.tensor_model_parallel_size, arguments.pipeline_model_parallel_size) == (1, 1)


def test_c06_adapters_are_named(hf: Path, tmp_path: Path) -> None:
    both = edited_hf(hf, tmp_path / "both")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    for folder in (both, adapter):
        (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "Qwen/Qwen3-8B"}))
    (adapter / "adapter_model.safetensors").write_bytes(b"")
    assert "adapter_config.json" in refused(both)
    assert "is an adapter of Qwen/Qwen3-8B" in refused(adapter)


def test_c08_rope_scaling_is_not_to_be_removed(hf: Path, tmp_path: Path) -> None:
    message = refused(edited_hf(hf, tmp_path / "source", rope_scaling={"rope_type": "longrope"}))
    assert "longrope" in message
    assert "remove it" not in message


def test_c09_what_the_system_refuses_is_one_line(hf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--input", str(hf), "--output", str(tmp_path / ("x" * 250))]
    assert run_command(lambda: convert_hf_to_nemo.main(arguments)) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "choose a shorter name" in error
    assert not os.listdir(tmp_path)

    def fails() -> int:
        raise PermissionError(13, "Permission denied", "a\nb")

    assert run_command(fails) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_c10_force_onto_a_link_replaces_what_it_points_to(hf: Path, tmp_path: Path) -> None:
    real, link = tmp_path / "disk" / "model", tmp_path / "link"
    real.parent.mkdir()
    to_nemo(hf, real, Format.NEMO_DIR)
    link.symlink_to(real)
    assert convert_hf_to_nemo.main(["--input", str(hf), "--output", str(link), "--force", "--dtype", "bf16"]) == 0
    assert link.is_symlink()
    assert str(open_checkpoint(real).dtype) == "bfloat16"
    assert os.listdir(real.parent) == ["model"]


def test_c11_files_of_other_hosts_and_containers_stay(tmp_path: Path) -> None:
    finished = subprocess.Popen(["true"])
    finished.wait()
    theirs = {f".out.tmp-0123456789-{finished.pid}", f".out.old-0123456789-{finished.pid}", f".out.tmp-{finished.pid}"}
    for name in theirs:
        (tmp_path / name).mkdir()
    with new_output(tmp_path / "out", {"a": 1}, tar=False, force=False) as output, output.file("a") as write:
        write(b"a")
    assert set(os.listdir(tmp_path)) == theirs | {"out"}


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("mp_rank_00/model_optim_rng.pt", "legacy format"),
        ("zero_to_fp32.py", "DeepSpeed"),
        ("model_world_size_8_rank_0.pt", "verl.model_merger"),
        ("pytorch_model_fsdp_0/.metadata", "accelerate merge-weights"),
        ("__0_0.distcp", "DCP"),
        ("model-q4.gguf", "GGUF"),
        ("model-rank-0-part-0.safetensors", "vLLM"),
        ("rank0.engine", "TensorRT-LLM"),
        ("consolidated.00.pth", "Meta"),
        ("flax_model.msgpack", "another framework"),
    ],
)
def test_c12_foreign_folders_are_named(tmp_path: Path, name: str, named: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"")
    assert named in refused(tmp_path)


def test_c12_roots_of_other_trainers_are_read(hf: Path, tmp_path: Path) -> None:
    """A folder of one iteration, verl's with Megatron, and NeMo 2's `weights/`: `huggingface/` lies one level above."""
    root = to_nemo(hf, tmp_path / "root", Format.MEGATRON)
    assert open_checkpoint(root / "release").dtype == open_checkpoint(root).dtype
    verl = tmp_path / "verl"
    shutil.copytree(root / "release", verl / "global_step_5" / "actor" / "dist_ckpt")
    shutil.copytree(root / "huggingface", verl / "global_step_5" / "actor" / "huggingface")
    (verl / "latest_checkpointed_iteration.txt").write_text("5")
    exported = weights(to_hf(verl, tmp_path / "out"))
    assert all(torch.equal(exported[name], x) for name, x in weights(hf).items())
    nemo_2 = tmp_path / "nemo_2"
    shutil.copytree(root / "release", nemo_2 / "weights")
    (nemo_2 / "context").mkdir()
    assert "--hf-files" in refused(nemo_2)
    assert open_checkpoint(nemo_2, hf_files=hf).shape == open_checkpoint(hf).shape


def test_c13_single_file_names_do_not_make_a_megatron_checkpoint(hf: Path, tmp_path: Path) -> None:
    source = edited_hf(hf, tmp_path / "source")
    (source / "metadata.json").write_text("{}")
    (source / "model_config.yaml").write_text("a: 1")
    (source / "release").mkdir()
    assert open_checkpoint(source).kind == "Hugging Face folder"


def test_c15_buffers_of_older_transformers(hf: Path, tmp_path: Path) -> None:
    source = edited_hf(hf, tmp_path / "source")
    stored = weights(source)
    stored["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
    save_file(stored, source / "model.safetensors", {"format": "pt"})
    open_checkpoint(source)


def test_c16_an_index_whose_shards_are_all_gone(hf: Path, tmp_path: Path) -> None:
    source = edited_hf(hf, tmp_path / "source")
    stale = {"weight_map": dict.fromkeys(weights(hf), "model-00001-of-00002.safetensors")}
    (source / "model.safetensors.index.json").write_text(json.dumps(stale))
    open_checkpoint(source)


def test_c18_a_cast_conversion_can_be_verified(hf: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert convert_hf_to_nemo.main(["--input", str(hf), "--output", str(out), "--dtype", "bf16"]) == 0
    assert verify_checkpoint.main([str(hf), str(out)]) == 1
    assert verify_checkpoint.main([str(hf), str(out), "--dtype", "bf16"]) == 0


def test_c19_both_names_of_the_type_are_written(hf: Path, tmp_path: Path) -> None:
    source = edited_hf(hf, tmp_path / "source", dtype="float32", torch_dtype="float32")
    nemo, out = to_nemo(source, tmp_path / "nemo"), tmp_path / "out"
    assert convert_nemo_to_hf.main(["--input", str(nemo), "--output", str(out), "--dtype", "bf16"]) == 0
    config = json.loads((out / "config.json").read_text())
    assert (config["dtype"], config["torch_dtype"]) == ("bfloat16", "bfloat16")
    open_checkpoint(out)


def test_c19_half_a_character_in_a_changed_config_stays_as_it_was(hf: Path, tmp_path: Path) -> None:
    source, out = edited_hf(hf, tmp_path / "source", note="\ud800\u00fc"), tmp_path / "out"
    nemo = to_nemo(source, tmp_path / "nemo")
    assert convert_nemo_to_hf.main(["--input", str(nemo), "--output", str(out), "--dtype", "bf16"]) == 0
    assert json.loads((out / "config.json").read_text())["note"] == "\ud800\u00fc"


def test_c20_heads_beside_the_model_are_refused(nemo: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(nemo, tmp_path / "source"))
    file = source / "model_weights" / ".metadata"
    metadata = pickle.loads(file.read_bytes())  # noqa: S301  written by this test
    stored = metadata.state_dict_metadata
    stored["optimizer.state.exp_avg.model.decoder.x"] = stored["model.decoder.final_layernorm.weight"]
    for index, info in list(metadata.storage_data.items()):
        if index.fqn == "model.decoder.final_layernorm.weight":
            for key in ("optimizer.state.exp_avg.model.decoder.x", "model.rm_head.weight"):
                metadata.storage_data[type(index)(key, index.offset)] = info
    file.write_bytes(pickle.dumps(metadata))
    open_checkpoint(source)  # of training, and of no weight
    stored["model.rm_head.weight"] = stored["model.decoder.final_layernorm.weight"]
    file.write_bytes(pickle.dumps(metadata))
    assert "model.rm_head.weight" in refused(source)


def test_c21_numbers_and_references_of_omegaconf(nemo: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(nemo, tmp_path / "source"))
    shutil.rmtree(source / "huggingface")
    text = (source / "model_config.yaml").read_text()
    text = text.replace("layernorm_epsilon: 1.0e-06", "layernorm_epsilon: 1e-6")
    shape = open_checkpoint(nemo).shape
    text = text.replace(f"max_position_embeddings: {shape.max_positions}", "max_position_embeddings: ${.longest}")
    (source / "model_config.yaml").write_text(text + f"longest: {shape.max_positions}\nmulti_latent_attention: no\n")
    assert "layernorm_epsilon: 1e-6" in text
    assert "longest" in refused(source)  # not a key of NeMo
    (source / "model_config.yaml").write_text(
        text.replace("longest", "seq_length") + f"seq_length: {shape.max_positions}"
    )
    assert open_checkpoint(source).shape == shape


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "base_model."])
def test_c23_prefixes_of_wrappers_are_named(hf: Path, tmp_path: Path, prefix: str) -> None:
    source = edited_hf(hf, tmp_path / "source")
    stored = {prefix + name: x for name, x in weights(source).items()}
    save_file(stored, source / "model.safetensors", {"format": "pt"})
    message = refused(source)
    assert f"begin with {prefix}" in message
    assert len(message) < 400


def test_c23_paths_that_are_almost_a_checkpoint(hf: Path, tmp_path: Path) -> None:
    assert "huggingface-cli download" in refused(Path("Qwen/Qwen3-8B"))
    cache = tmp_path / "models--Qwen--Qwen3-8B"
    shutil.copytree(hf, cache / "snapshots" / "0123")
    assert str(cache / "snapshots" / "0123") in refused(cache)
    assert str(hf) in refused(hf / "model.safetensors")


def test_c23_manifests_take_any_name(tmp_path: Path) -> None:
    names = {"a\nb": 1, "c\\d": 1, "plain": 1}
    with new_output(tmp_path / "out", names, tar=False, force=False) as output:
        for name in names:
            with output.file(name) as write:
                write(b"a")
    assert check_manifest(tmp_path / "out" / "SHA256SUMS", lambda count: None) == []
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=tmp_path / "out", check=True)
