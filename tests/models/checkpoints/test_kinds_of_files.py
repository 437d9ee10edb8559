"""More kinds of faults (see test_kinds.py): files beside weights, defaults of transformers, limits of the system."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from s2l_nemo.errors import UserError
from s2l_nemo.models.checkpoints.open import open_checkpoint
from s2l_nemo.models.checkpoints.to_nemo import Format
from s2l_nemo.models.formats.output import new_output
from s2l_nemo.models.hf_config import shape_from_config_json
from tests.distributed.conversion import to_hf, to_nemo
from tests.distributed.models import write_qwen3
from tools import convert_hf_to_nemo, convert_nemo_to_hf

ROOT = Path(__file__).resolve().parents[3]
REQUIRED: dict[str, Any] = {
    "vocab_size": 32, "hidden_size": 4096, "num_hidden_layers": 2, "num_attention_heads": 32, "intermediate_size": 64,
}  # fmt: skip


@pytest.fixture(scope="module")
def hf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_qwen3(tmp_path_factory.mktemp("hf"), tied=False, layers=2)


@pytest.fixture
def source(hf: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(hf, tmp_path / "source"))


def edit_config(folder: Path, **values: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **values}))


@pytest.mark.parametrize("form", Format)
def test_c07_further_chat_templates_go_along_and_other_folders_are_named(
    source: Path, tmp_path: Path, form: Format, capsys: pytest.CaptureFixture[str]
) -> None:
    (source / "additional_chat_templates").mkdir()
    (source / "additional_chat_templates" / "tools.jinja").write_text("{{ messages }}")
    (source / "figures").mkdir()
    (source / ".git").mkdir()
    out = tmp_path / "out"
    assert convert_hf_to_nemo.main(["--input", str(source), "--output", str(out), "--format", form.value]) == 0
    assert capsys.readouterr().err.splitlines()[0] == "left out, as no part of the model: figures/"
    back = to_hf(out, tmp_path / "back")
    assert (back / "additional_chat_templates" / "tools.jinja").read_text() == "{{ messages }}"


def test_c07_a_large_file_beside_the_weights_is_named(source: Path, tmp_path: Path, capsys: Any) -> None:
    with (source / "corpus.txt").open("wb") as file:
        file.truncate(256 * 2**20)
    assert convert_hf_to_nemo.main(["--input", str(source), "--output", str(tmp_path / "out")]) == 0
    assert "left out, as no part of the model: corpus.txt" in capsys.readouterr().err


@pytest.mark.parametrize("family", ["LlamaConfig", "Qwen2Config", "Qwen3Config"])
def test_c14_what_config_json_leaves_out_is_what_transformers_takes(family: str) -> None:
    import transformers

    theirs = getattr(transformers, family)(**REQUIRED)
    shape = shape_from_config_json(Path("config.json"), {"model_type": theirs.model_type, **REQUIRED})
    head_dim = getattr(theirs, "head_dim", None) or theirs.hidden_size // theirs.num_attention_heads
    assert (shape.kv_heads, shape.head_dim) == (theirs.num_key_value_heads, head_dim)
    assert (shape.rope_theta, shape.rms_norm_eps) == (theirs.rope_theta, theirs.rms_norm_eps)
    assert (shape.max_positions, shape.tied) == (theirs.max_position_embeddings, theirs.tie_word_embeddings)


def test_c14_a_figure_that_has_no_default_is_named() -> None:
    config = {"model_type": "llama", **REQUIRED, "hidden_size": None}
    with pytest.raises(UserError, match="hidden_size=None must be a positive integer"):
        shape_from_config_json(Path("config.json"), config)
    with pytest.raises(UserError, match="tie_word_embeddings=false must be true or false"):
        shape_from_config_json(Path("config.json"), {**config, "hidden_size": 4096, "tie_word_embeddings": "false"})


MEASURE = """
import resource, sys
sys.path.insert(0, "tools")
import convert_hf_to_nemo
convert_hf_to_nemo.main(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_c17_memory_does_not_depend_on_the_files_beside_the_weights(source: Path, tmp_path: Path) -> None:
    def peak(output: str) -> int:  # KiB
        command = [sys.executable, "-c", MEASURE, "--input", str(source), "--output", str(tmp_path / output)]
        shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        return int(shown.split()[-1])

    without = peak("without")
    for name in ("a.txt", "b.txt"):
        with (source / name).open("wb") as file:
            file.truncate(100 * 2**20)
    assert peak("with") < without + 50 * 2**10


def test_c22_an_export_without_a_tokenizer_says_so(source: Path, tmp_path: Path, capsys: Any) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (source / name).unlink(missing_ok=True)
    nemo = to_nemo(source, tmp_path / "nemo")
    assert convert_nemo_to_hf.main(["--input", str(nemo), "--output", str(tmp_path / "out")]) == 0
    assert "carries no tokenizer" in capsys.readouterr().err
    complete = to_nemo(write_qwen3(tmp_path / "hf", layers=2), tmp_path / "complete")
    assert convert_nemo_to_hf.main(["--input", str(complete), "--output", str(tmp_path / "out2")]) == 0
    assert capsys.readouterr().err == ""


def test_c23_pointers_of_lfs_and_left_over_quantisation(source: Path) -> None:
    edit_config(source, quantization_config={"quant_method": "awq"})
    with pytest.raises(UserError, match="quantization_config is not supported"):
        open_checkpoint(source)
    edit_config(source, quantization_config=None)
    open_checkpoint(source)
    (source / "tokenizer.json").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(UserError, match=r"tokenizer\.json is a Git LFS pointer"):
        open_checkpoint(source)


LIMITED = """
import os, resource, sys, tempfile
sys.path.insert(0, "tools")
import convert_hf_to_nemo
from s2l_nemo.models.checkpoints.command import run_command
with tempfile.TemporaryDirectory() as folder:  # so that all modules are loaded, which the limit may forbid
    assert convert_hf_to_nemo.main(["--input", sys.argv[3], "--output", folder + "/out"]) == 0
exec(sys.argv[1])
sys.exit(run_command(lambda: convert_hf_to_nemo.main(sys.argv[2:])))
"""


def refused_by_the_system(limit: str, source: Path, output: Path) -> str:
    """What the command says, on one line, after the statement `limit`."""
    command = [sys.executable, "-c", LIMITED, limit, "--input", str(source), "--output", str(output)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert not os.listdir(output.parent)
    return str(done.stderr)


def test_c09_a_limit_of_file_sizes(hf: Path, tmp_path: Path) -> None:
    limit = "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))"
    said = refused_by_the_system(limit, hf, tmp_path / "out")
    assert "ulimit -f" in said
    assert ".distcp" in said


def test_c09_a_limit_of_open_files(hf: Path, tmp_path: Path) -> None:
    limit = "resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))"
    assert "ulimit -n" in refused_by_the_system(limit, hf, tmp_path / "out")


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that every user may enter, which those of pytest are not."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def test_c09_what_another_user_may_not_write_or_read(source: Path, public: Path) -> None:
    """As another user, since root may write anywhere."""
    if os.geteuid() != 0:
        pytest.skip("only root may become another user")
    source = Path(shutil.copytree(source, public / "source"))
    source.chmod(0o755)
    for file in source.iterdir():
        file.chmod(0o644)
    place = public / "place"
    place.mkdir(mode=0o755)
    said = refused_by_the_system("os.setuid(65534)", source, place / "out")
    assert "Permission denied: give yourself the right to it" in said
    place.chmod(0o777)
    (source / "config.json").chmod(0o600)
    renewed = "os.utime(sys.argv[3] + '/config.json', (1, 1)); os.setuid(65534)"  # else it is still open
    said = refused_by_the_system(renewed, source, place / "out")
    assert "source/config.json: Permission denied" in said


def test_c11_the_slower_of_two_conversions_does_not_replace_the_output_of_the_other(tmp_path: Path) -> None:
    out = tmp_path / "out"

    def slower() -> None:
        with new_output(out, {"a": 1}, tar=False, force=False) as output, output.file("a") as write:
            write(b"a")
            out.mkdir()
            (out / "config.json").write_text("theirs")

    with pytest.raises(UserError, match="exists"):
        slower()
    assert (out / "config.json").read_text() == "theirs"
    assert os.listdir(tmp_path) == ["out"]


def test_c12_a_slime_root_whose_iterations_hold_no_hugging_face_files(hf: Path, tmp_path: Path) -> None:
    root = to_nemo(hf, tmp_path / "root", Format.MEGATRON)
    (root / "release").rename(root / "iter_0000025")
    shutil.rmtree(root / "huggingface")
    (root / "conversion.json").unlink()
    (root / "rollout").mkdir()  # slime keeps its data state there
    (root / "latest_checkpointed_iteration.txt").write_text("25")
    with pytest.raises(UserError, match="--hf-files"):
        open_checkpoint(root)
    exported = load_file(to_hf(root, tmp_path / "out", hf_files=hf) / "model.safetensors")
    assert all(torch.equal(exported[name], x) for name, x in load_file(hf / "model.safetensors").items())
