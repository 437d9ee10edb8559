"""What is written is what the safetensors package would write, and what transformers loads."""

from __future__ import annotations

import json
import math
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save
from transformers import AutoModelForCausalLM, PreTrainedModel, Qwen3Config, Qwen3ForCausalLM

from s2l_nemo.models.formats.dtypes import BFLOAT16, FLOAT32
from s2l_nemo.models.formats.output import new_output
from s2l_nemo.models.formats.rows import MemoryRows, Rows, take
from s2l_nemo.models.formats.safetensors_folder import INDEX, SINGLE, SafetensorsFolder
from s2l_nemo.models.formats.safetensors_writer import SafetensorsPlan, TensorPlan
from s2l_nemo.models.checkpoints.tensors import dtype_of, rows_of, tensor_of
from tests.models.outputs import MemoryOutput
from tests.random_qwen3 import random_qwen3

BF16, F16, F32 = torch.bfloat16, torch.float16, torch.float32


def plan_of(tensors: dict[str, torch.Tensor], dtype: torch.dtype, max_shard_bytes: int) -> SafetensorsPlan:
    return SafetensorsPlan(
        [TensorPlan(name, tuple(x.shape)) for name, x in tensors.items()], dtype_of(dtype), max_shard_bytes
    )


def written(tensors: dict[str, torch.Tensor], dtype: torch.dtype, max_shard_bytes: int) -> MemoryOutput:
    output = MemoryOutput()
    plan = plan_of(tensors, dtype, max_shard_bytes)
    plan.write(output, ((name, rows_of(x)) for name, x in tensors.items()))
    assert list(plan.files.items()) == [(name, len(content)) for name, content in output.files.items()]
    assert plan.total_size == sum(x.nbytes for x in tensors.values())
    return output


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.reshape(-1).view(torch.uint8)


NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=8).filter(lambda name: name != "__metadata__")


@given(
    st.dictionaries(NAMES, st.lists(st.integers(0, 4), max_size=3), min_size=1, max_size=6),
    st.sampled_from([BF16, F16, F32]),
    st.integers(1, 200),
)
def test_there_and_back(shapes: dict[str, list[int]], dtype: torch.dtype, max_shard_bytes: int) -> None:
    counts = [math.prod(shape) * dtype.itemsize for shape in shapes.values()]
    tensors = {  # any bits, NaNs included
        name: torch.randint(256, (count,), dtype=torch.uint8).view(dtype).view(shape)
        for (name, shape), count in zip(shapes.items(), counts, strict=True)
    }
    output = written(tensors, dtype, max_shard_bytes)
    with tempfile.TemporaryDirectory() as name:
        folder = output.save(Path(name))
        reader = SafetensorsFolder(folder)
        assert set(reader.tensors) == set(tensors)
        filled = [name for name, x in tensors.items() if x.numel()]
        assert [name for name in reader.tensors if name in filled] == filled  # in the order of the plan
        seen: dict[str, torch.Tensor] = {}
        shards = [file for file in output.files if file != INDEX]
        for file in shards:
            in_file = load_file(folder / file)
            assert len(in_file) == 1 or sum(x.nbytes for x in in_file.values()) <= max_shard_bytes
            seen |= in_file
        for name, tensor in tensors.items():
            assert (seen[name].dtype, seen[name].shape) == (dtype, tensor.shape)
            assert torch.equal(bits(seen[name]), bits(tensor))
            assert torch.equal(bits(tensor_of(reader.rows(name), dtype_of(dtype), tuple(tensor.shape))), bits(tensor))
    assert (len(shards) > 1) == (INDEX in output.files)


@given(st.dictionaries(NAMES, st.lists(st.integers(1, 3), max_size=2), min_size=1), st.sampled_from([BF16, F16, F32]))
def test_one_file_is_the_packages_byte_for_byte(shapes: dict[str, list[int]], dtype: torch.dtype) -> None:
    names = sorted(shapes, key=str.encode)  # the package sorts by UTF-8
    tensors = {name: torch.randn(shapes[name]).to(dtype) for name in names}
    output = written(tensors, dtype, 10**9)
    assert list(output.files) == [SINGLE]
    assert bytes(output.files[SINGLE]) == save(tensors, {"format": "pt"})


def test_shards_by_hand() -> None:
    sizes = {"a": 2, "b": 2, "c": 1, "big": 5, "zero": 0, "d": 4, "e": 1}  # bf16: 8 bytes are 4 elements
    output = written({name: torch.ones(size, dtype=BF16) for name, size in sizes.items()}, BF16, 8)
    files = [f"model-0000{i}-of-00005.safetensors" for i in range(1, 6)]
    assert list(output.files) == [*files, INDEX]
    index = json.loads(output.files[INDEX])
    assert index == {
        "metadata": {"total_size": 30},
        "weight_map": dict(zip(sizes, [files[i] for i in (0, 0, 1, 2, 3, 3, 4)], strict=True)),
    }
    for file in files:
        length = int.from_bytes(output.files[file][:8], "little")
        assert length % 8 == 0
        assert json.loads(output.files[file][8 : 8 + length])["__metadata__"] == {"format": "pt"}


def test_one_tensor_that_is_too_large_is_no_shard() -> None:
    assert list(written({"x": torch.ones(100)}, F32, 8).files) == [SINGLE]


def test_rows_may_come_in_parts_and_columns() -> None:
    matrix = torch.randint(256, (6, 8), dtype=torch.uint8)
    rows = rows_of(matrix)
    plan = SafetensorsPlan([TensorPlan("x", (6, 2)), TensorPlan("y", (6, 1))], FLOAT32, 10**9)
    output = MemoryOutput()
    plan.write(output, [("x", (*take(rows, 4, 6), *take(rows, 0, 4))), ("y", rows_of(matrix[:, 4:]))])
    wanted = torch.cat([matrix[4:], matrix[:4]]).numpy().tobytes() + matrix[:, 4:].contiguous().numpy().tobytes()
    assert bytes(output.files[SINGLE]).endswith(wanted)


def rows(size: int) -> Rows:
    return (MemoryRows(memoryview(bytes(4 * size)), 4),)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([("b", rows(2)), ("a", rows(1))], "b came where a was planned"),
        ([("a", rows(1)), ("a", rows(1))], "a came where b was planned"),
        ([("a", rows(1))], "nothing came where b was planned"),
        ([("a", rows(1)), ("b", rows(1))], "b has 4 bytes, not 8"),
        ([("a", rows(1)), ("b", rows(3))], "b has 12 bytes, not 8"),
        ([("a", rows(1)), ("b", rows(2)), ("c", rows(1))], "more tensors came than were planned"),
    ],
)
@pytest.mark.parametrize("max_shard_bytes", [4, 100])
def test_wrong_data_is_our_mistake(data: list[tuple[str, Rows]], message: str, max_shard_bytes: int) -> None:
    plan = SafetensorsPlan([TensorPlan("a", (1,)), TensorPlan("b", (2,))], FLOAT32, max_shard_bytes)
    output = MemoryOutput()
    with pytest.raises(AssertionError, match=message):
        plan.write(output, data)
    assert INDEX not in output.files


def test_wrong_plans_are_our_mistake() -> None:
    with pytest.raises(AssertionError, match="two tensors have one name"):
        SafetensorsPlan([TensorPlan("a", (1,)), TensorPlan("a", (2,))], FLOAT32, 100)
    with pytest.raises(AssertionError, match="no tensors"):
        SafetensorsPlan([], FLOAT32, 100)


def test_no_tensor_is_kept_once_written() -> None:
    alive: list[weakref.ref[MemoryRows]] = []

    def data() -> Iterator[tuple[str, Rows]]:
        for name in "abc":
            assert not any(reference() is not None for reference in alive), f"alive when {name} is made"
            rows = (MemoryRows(memoryview(bytes(4)), 4),)
            alive.append(weakref.ref(rows[0]))
            yield name, rows
            del rows

    SafetensorsPlan([TensorPlan(name, (1,)) for name in "abc"], FLOAT32, 8).write(MemoryOutput(), data())
    assert len(alive) == 3


@pytest.mark.parametrize("tied", [True, False])
def test_transformers_writes_what_we_read_and_loads_what_we_write(tmp_path: Path, tied: bool) -> None:
    from transformers import AutoModelForCausalLM

    model = random_qwen3(vocab_size=40, hidden_size=16, tie_word_embeddings=tied, torch_dtype=BF16).to(BF16)
    model.save_pretrained(tmp_path / "theirs", max_shard_size="9KB")
    reader = SafetensorsFolder(tmp_path / "theirs")
    assert len({tensor.file for tensor in reader.tensors.values()}) > 2
    wanted = {name: weight for name, weight in model.state_dict().items() if not (tied and name == "lm_head.weight")}
    assert {name: (x.dtype, x.shape) for name, x in reader.tensors.items()} == {
        name: (dtype_of(x.dtype), tuple(x.shape)) for name, x in wanted.items()
    }

    plan = SafetensorsPlan([TensorPlan(name, tuple(x.shape)) for name, x in wanted.items()], BFLOAT16, 4000)
    config = (tmp_path / "theirs" / "config.json").read_bytes()
    files = {**plan.files, "config.json": len(config)}
    with new_output(tmp_path / "ours", files, tar=False, force=False) as output:
        plan.write(output, ((name, reader.rows(name)) for name in wanted))
        with output.file("config.json") as write:
            write(config)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "ours", torch_dtype="auto").state_dict()
    assert loaded.keys() == model.state_dict().keys()
    for name, weight in model.state_dict().items():
        assert loaded[name].dtype is BF16
        assert torch.equal(loaded[name], weight), name
    theirs, ours = (json.loads((tmp_path / folder / INDEX).read_text()) for folder in ("theirs", "ours"))
    assert ours["metadata"]["total_size"] == theirs["metadata"]["total_size"] == plan.total_size
    assert ours["weight_map"].keys() == theirs["weight_map"].keys()
