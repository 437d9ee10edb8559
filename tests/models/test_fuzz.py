"""Readers of a stranger's files: whatever the bytes are, they are read or refused in one line, and nothing else.

`HYPOTHESIS_EXAMPLES=100000 pytest tests/models/test_fuzz.py` looks longer.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from s2l_nemo.errors import UserError
from s2l_nemo.models.checkpoints.open import open_checkpoint
from s2l_nemo.models.files import read_json_object
from s2l_nemo.models.formats.dtypes import FLOAT32
from s2l_nemo.models.formats.regions import folder_regions, tar_regions
from s2l_nemo.models.formats.safetensors_folder import read_header
from s2l_nemo.models.formats.torch_dist import TorchDistReader
from s2l_nemo.models.formats.torch_unpickle import IN_ITEM, IN_METADATA, unpickle
from s2l_nemo.models.formats.yaml_config import read_yaml_mapping
from s2l_nemo.models.hf_config import config_of_shape, shape_from_config_json, stated_dtype
from s2l_nemo.models.nemo_config import architecture, shape_from_nemo
from s2l_nemo.models.nemo_keys import check_keys, with_nemo_defaults
from tests.models.formats.torch_dist import write_by_torch
from tests.models.shapes import small_shape

FUZZ = settings(
    max_examples=int(os.environ.get("HYPOTHESIS_EXAMPLES", "150")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
FAMILIES = ["qwen3", "qwen2", "llama", "internlm2"]
scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from([10**400, -1, 0, 1])
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)


def only_user_errors(read: Callable[[], object]) -> None:
    """Whatever else `read` raises ends the test."""
    message = ""
    try:
        read()
    except UserError as error:
        message = str(error)
    assert len(message.splitlines()) <= 1
    assert len(message) < 3000


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """`content` with some bytes exchanged, taken out or put in, or cut short."""
    data = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(data)))
        removed = draw(st.sampled_from([0, 1, 1, 1, 4, 40]))
        data[place : place + removed] = draw(st.binary(max_size=4))
    return bytes(data[: draw(st.integers(0, len(data)))] if draw(st.integers(0, 9)) == 0 else data)


SAFETENSORS = save({"a": torch.zeros(2, 3), "b": torch.zeros(4, dtype=torch.bfloat16)}, {"format": "pt"})


@FUZZ
@given(damaged(SAFETENSORS))
def test_damaged_safetensors(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.safetensors").write_bytes(content)
    only_user_errors(lambda: read_header(tmp_path / "x.safetensors"))


@FUZZ
@given(st.dictionaries(st.sampled_from(["__metadata__", "a", "b"]), st.fixed_dictionaries({}, optional={
    "dtype": st.sampled_from(["F32", "BF16", "I8"]) | values, "shape": st.lists(st.integers(-1, 5)) | values,
    "data_offsets": st.lists(st.integers(-1, 50), min_size=2, max_size=2) | values,
}) | values), st.binary(max_size=60))  # fmt: skip
def test_headers_of_safetensors(tmp_path: Path, header: Any, data: bytes) -> None:
    text = json.dumps(header).encode()
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    only_user_errors(lambda: read_header(tmp_path / "x.safetensors"))


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a checkpoint of one tensor in two chunks."""
    folder = tmp_path_factory.mktemp("stored")
    metadata = write_by_torch(folder, {"a": (torch.arange(6.0).reshape(3, 2), [((0, 0), (2, 2)), ((2, 0), (1, 2))])})
    assert metadata.storage_data
    return {name: region.read() for name, region in folder_regions(folder).items()}


@FUZZ
@given(st.data())
def test_damaged_torch_dist(stored: dict[str, bytes], tmp_path: Path, data: st.DataObject) -> None:
    assert {".metadata", "metadata.json", "__0_0.distcp"} <= set(stored)
    name = data.draw(st.sampled_from([".metadata", ".metadata", "metadata.json", "__0_0.distcp"]))
    for other, content in stored.items():
        (tmp_path / other).write_bytes(content)
    (tmp_path / name).write_bytes(data.draw(damaged(stored[name])))

    def read() -> None:
        reader = TorchDistReader(folder_regions(tmp_path), tmp_path)
        for key in reader.tensors:
            reader.rows(key)

    only_user_errors(read)
    assert {path.name for path in tmp_path.iterdir()} == set(stored)


@FUZZ
@given(st.lists(st.binary(min_size=1, max_size=3) | st.sampled_from(
    [b"cos\nsystem\n", b"ctorch\nSize\n", b"(", b"t", b"R", b"]", b"}", b"\x81", b"b", b"cbuiltins\ngetattr\n", b"0",
     b"ccollections\nOrderedDict\n", b"h\x00", b"q\x00", b"\x8b\xff\xff\xff\x7f", b"X\xff\xff\xff\x7f", b"e", b"u"]
)).map(b"".join))  # fmt: skip
def test_pickles(content: bytes) -> None:
    for allowed in (IN_METADATA, IN_ITEM):
        only_user_errors(lambda allowed=allowed: unpickle(content + b".", allowed, "name"))  # type: ignore[misc]


def tar(names: list[str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = 3
            archive.addfile(info, io.BytesIO(b"a:1"))
    return buffer.getvalue()


@FUZZ
@given(damaged(tar(["./model_config.yaml", "./model_weights/metadata.json", "../../outside"])[:4096]))
def test_damaged_tars(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "x.nemo"
    file.write_bytes(content)
    only_user_errors(lambda: [region.read() for region in tar_regions(file).values()])
    only_user_errors(lambda: open_checkpoint(file))
    assert os.listdir(tmp_path) == ["x.nemo"]


def changed(config: dict[str, Any], more: list[str]) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(st.sampled_from([*config, *more]), values, max_size=3).map(lambda new: {**config, **new})


def read_config(content: bytes) -> None:
    config = read_json_object(content, Path("config.json"))
    stated_dtype(Path("config.json"), config)
    shape = shape_from_config_json(Path("config.json"), config)
    assert shape.heads % shape.kv_heads == 0


SCALING = ["rope_type", "type", "factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"]


@FUZZ
@given(st.data(), st.sampled_from(FAMILIES))
def test_config_json(data: st.DataObject, family: str) -> None:
    config = config_of_shape(small_shape(family=family), FLOAT32)
    new = data.draw(changed(config, ["rope_parameters", "dtype", "quantization_config", "attention_bias"]))
    if data.draw(st.booleans()):
        kinds = st.sampled_from(["llama3", "yarn", "default", "dynamic", 8, 1.5])
        new["rope_scaling"] = data.draw(st.dictionaries(st.sampled_from(SCALING), kinds | scalars))
    only_user_errors(lambda: read_config(json.dumps(new).encode()))
    only_user_errors(lambda: read_config(data.draw(damaged(json.dumps(config).encode()))))


def read_model_config(content: bytes) -> None:
    path = Path("model_config.yaml")
    config = with_nemo_defaults(path, read_yaml_mapping(content, str(path)))
    check_keys(path, config, shape_from_nemo(path, config, 8))


@FUZZ
@given(st.data(), st.sampled_from(FAMILIES[:3]))
def test_model_config_yaml(data: st.DataObject, family: str) -> None:
    config = architecture(small_shape(family=family))
    new = data.draw(changed(config, ["rope_scaling", "scale_factor", "encoder_seq_length", "window_size", "optim"]))
    only_user_errors(lambda: read_model_config(yaml.safe_dump(new).encode()))
    only_user_errors(lambda: read_model_config(data.draw(damaged(yaml.safe_dump(config).encode()))))


@pytest.mark.parametrize(
    "content", [b"a: &a [1]\nb: *a", b"a: &a [*a]", b"? [1]\n: 2", b"<<: {a: 1}", b"- 1", b"", b"\xff", b"!!set {a}"]
)
def test_yaml_that_is_no_plain_mapping(content: bytes) -> None:
    only_user_errors(lambda: read_model_config(content))


def test_a_folder_of_garbage(tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors", "latest_checkpointed_iteration.txt", "metadata.json"):
        shutil.rmtree(tmp_path / "x", ignore_errors=True)
        (tmp_path / "x").mkdir()
        (tmp_path / "x" / name).write_bytes(b"\xff" * 50)
        with pytest.raises(UserError):
            open_checkpoint(tmp_path / "x")
