"""What is read equals what the safetensors package reads; what is damaged is refused in one line."""

from __future__ import annotations

import json
import math
import re
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import event, example, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.torch import save, save_file

from s2l_nemo.errors import UserError
from s2l_nemo.models.checkpoints.tensors import dtype_of, tensor_of
from s2l_nemo.models.formats.dtypes import BFLOAT16, FLOAT16, FLOAT32, Dtype
from s2l_nemo.models.formats.rows import blocks
from s2l_nemo.models.formats.safetensors_folder import (
    INDEX,
    SINGLE,
    SafetensorsFolder,
    StoredTensor,
    check_tensors,
)

BF16, F16, F32 = torch.bfloat16, torch.float16, torch.float32


def entry(start: int, stop: int, shape: list[int] | None = None, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": [(stop - start) // 4] if shape is None else shape, "data_offsets": [start, stop]}


def raw(header: Any, data: int = 0) -> bytes:
    """A file with this header, whether sound or not, and so many zero bytes of data."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(data)


def sharded(folder: Path, shards: dict[str, list[str]], weight_map: dict[str, Any] | None = None) -> Path:
    """A folder of shards of one-element tensors with these names, and the index that belongs to them, or another."""
    for file, names in shards.items():
        save_file({name: torch.ones(1) for name in names}, folder / file)
    right = {name: file for file, names in shards.items() for name in names}
    (folder / INDEX).write_text(json.dumps({"weight_map": right if weight_map is None else weight_map}))
    return folder


def refusal(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        SafetensorsFolder(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert str(folder) in message
    return message


def assert_same_as_package(file: Path, folder: SafetensorsFolder) -> None:
    with safe_open(file, "pt") as package:
        assert set(folder.tensors) == set(package.keys())
        for name, stored in folder.tensors.items():
            wanted = package.get_tensor(name)
            assert (stored.file, stored.dtype, stored.shape) == (file, dtype_of(wanted.dtype), tuple(wanted.shape))
            tensor = tensor_of(folder.rows(name), stored.dtype, stored.shape)
            assert torch.equal(tensor.reshape(-1).view(torch.uint8), wanted.reshape(-1).view(torch.uint8))


SHAPES = st.lists(st.integers(0, 4), max_size=4)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=8).filter(lambda name: name != "__metadata__")


@given(st.dictionaries(NAMES, st.tuples(SHAPES, st.sampled_from([BF16, F16, F32])), max_size=5), st.booleans())
def test_reads_what_the_package_writes(drawn: dict[str, tuple[list[int], torch.dtype]], with_metadata: bool) -> None:
    tensors = {name: torch.randn(shape).to(dtype) for name, (shape, dtype) in drawn.items()}
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / SINGLE
        file.write_bytes(save(tensors, {"format": "pt"} if with_metadata else None))
        assert_same_as_package(file, SafetensorsFolder(file.parent))


def test_rows_are_first_dimensions_of_bytes(tmp_path: Path) -> None:
    matrix, vector = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), torch.tensor([7.0, 8.0], dtype=BF16)
    save_file({"matrix": matrix, "vector": vector, "scalar": torch.tensor(9.0)}, tmp_path / SINGLE)
    folder = SafetensorsFolder(tmp_path)
    assert {name: (len(rows), rows.row_bytes) for name in folder.tensors for rows in folder.rows(name)} == {
        "matrix": (3, 8),
        "vector": (2, 2),
        "scalar": (1, 4),
    }
    assert tensor_of((folder.rows("matrix")[0][1:2],), FLOAT32, (2,)).tolist() == [3.0, 4.0]
    assert [*next(blocks(folder.rows("vector"), 9))] == [0xE0, 0x40, 0x00, 0x41]  # 7 is 0x40e0, 8 is 0x4100


@pytest.mark.parametrize(("dtype", "integer"), [(BF16, torch.int16), (F16, torch.int16), (F32, torch.int32)])
def test_every_bit_pattern_survives(tmp_path: Path, dtype: torch.dtype, integer: torch.dtype) -> None:
    bits = torch.arange(-(2**15), 2**15) * (1 if integer is torch.int16 else 65_521)  # all, or some of each exponent
    weights = bits.to(integer).view(dtype)
    assert weights.isnan().any()
    save_file({"x": weights}, tmp_path / SINGLE)
    found = tensor_of(SafetensorsFolder(tmp_path).rows("x"), dtype_of(dtype), tuple(bits.shape))
    assert torch.equal(found.view(integer), bits.to(integer))


def test_nothing_but_headers_is_read(tmp_path: Path) -> None:
    size = 2**40  # more than any memory: a file of holes
    with (tmp_path / SINGLE).open("wb") as file:
        file.write(raw({"x": entry(0, size)}))
        file.truncate(file.tell() + size)
    assert SafetensorsFolder(tmp_path).tensors["x"].shape == (size // 4,)


def test_shards_may_be_links(tmp_path: Path) -> None:
    for folder in ("blobs", "snapshot"):
        (tmp_path / folder).mkdir()
    save_file({"x": torch.tensor([1.5])}, tmp_path / "blobs" / "0123abcd")
    (tmp_path / "snapshot" / "a.safetensors").symlink_to("../blobs/0123abcd")
    (tmp_path / "snapshot" / INDEX).write_text(json.dumps({"weight_map": {"x": "a.safetensors"}}))
    (tmp_path / "link").symlink_to("snapshot")
    assert tensor_of(SafetensorsFolder(tmp_path / "link").rows("x"), FLOAT32, (1,)).tolist() == [1.5]
    (tmp_path / "blobs" / "0123abcd").unlink()
    assert "lacks 1 of 1 shards (a.safetensors)" in refusal(tmp_path / "link")


def test_which_files_are_read(tmp_path: Path) -> None:
    save_file({"x": torch.ones(1)}, tmp_path / "weights.safetensors")
    assert set(SafetensorsFolder(tmp_path).tensors) == {"x"}  # the only one
    save_file({"y": torch.ones(1)}, tmp_path / SINGLE)
    assert set(SafetensorsFolder(tmp_path).tensors) == {"y"}  # the one that transformers takes
    sharded(tmp_path, {"a.safetensors": ["z"], SINGLE: ["y"]})
    assert set(SafetensorsFolder(tmp_path).tensors) == {"z", "y"}  # the index decides


def test_no_weights(tmp_path: Path) -> None:
    assert "is not a folder" in refusal(tmp_path / "missing")
    assert f"neither {SINGLE} nor {INDEX}: give the folder" in refusal(tmp_path)
    for name in ("rng.pth", "pytorch_model-00001-of-00002.bin", "consolidated.pt", "training_args.bin"):
        (tmp_path / name).write_bytes(b"")
    message = refusal(tmp_path)
    assert "only pickled weights (consolidated.pt, pytorch_model-00001-of-00002.bin, rng.pth)" in message
    assert "never loaded: give the checkpoint as safetensors" in message
    for name in ("a.safetensors", "b.safetensors"):
        (tmp_path / name).write_bytes(b"")
    assert f"2 safetensors files (a.safetensors, b.safetensors) and no {INDEX}: add it" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("text", "piece"),
    [
        (b"{", "is not valid JSON (Expecting property name"),
        (b"\xff", "is not valid JSON ('utf-8' codec"),
        (b"[" * 10**5, "is not valid JSON (maximum recursion depth"),
        (b"[]", "is not a JSON object"),
        (b"{}", "has no weight_map (tensor names to file names)"),
        (b'{"weight_map": {}}', "has no weight_map"),
        (b'{"weight_map": ["x"]}', "has no weight_map"),
        (b'{"weight_map": {"x": 3}}', "the file of x is 3, not the name of a .safetensors file"),
        (b'{"weight_map": {"x": "model.bin"}}', "the file of x is 'model.bin', not the name of a .safetensors file"),
        (b'{"weight_map": {"x": ".."}}', "the file of x is '..', not the name of a .safetensors file"),
        (b'{"weight_map": {"x": "../a.safetensors"}}', "the file of x is '../a.safetensors', a path"),
        (b'{"weight_map": {"x": "/tmp/a.safetensors"}}', "the file of x is '/tmp/a.safetensors', a path"),
        (b'{"weight_map": {"x": "b\\\\a.safetensors"}}', "a path: shards must lie beside their index"),
        (b'{"weight_map": {"x": "a.safetensors", "x": "b.safetensors"}}', "(duplicate key x)"),
    ],
)
def test_damaged_index(tmp_path: Path, text: bytes, piece: str) -> None:
    sharded(tmp_path, {"a.safetensors": ["x"]})
    (tmp_path / INDEX).write_bytes(text)
    message = refusal(tmp_path)
    assert message.startswith(f"{tmp_path / INDEX}")
    assert piece in message


def test_path_outside_is_refused_though_it_exists(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    save_file({"x": torch.ones(1)}, tmp_path / "a.safetensors")
    (tmp_path / "inner" / INDEX).write_text(json.dumps({"weight_map": {"x": "../a.safetensors"}}))
    assert "'../a.safetensors', a path" in refusal(tmp_path / "inner")


def test_missing_shards_are_all_listed(tmp_path: Path) -> None:
    weight_map = {"x": "a.safetensors", "y": "b.safetensors", "z": "c.safetensors", "long": "d" * 300 + ".safetensors"}
    sharded(tmp_path, {"b.safetensors": ["y"]}, weight_map)
    (tmp_path / "c.safetensors").mkdir()  # a folder is no shard
    assert f"lacks 3 of 4 shards (a.safetensors, c.safetensors, {'d' * 300}.safetensors): download" in refusal(tmp_path)


def test_index_beside_a_model_it_does_not_name(tmp_path: Path) -> None:
    sharded(tmp_path, {"a.safetensors": ["x"]})
    save_file({"x": torch.ones(1)}, tmp_path / SINGLE)
    assert f"both {SINGLE} and {INDEX}, which does not name it: remove the wrong one" in refusal(tmp_path)


def test_index_and_shards_disagree(tmp_path: Path) -> None:
    shards = {"a.safetensors": [f"x{i:02d}" for i in range(13)], "b.safetensors": ["y"]}
    sharded(tmp_path, shards, {"x00": "b.safetensors", "y": "b.safetensors", "z": "a.safetensors"})
    message = refusal(tmp_path)
    assert f"{INDEX} names tensors that are not there (x00 in b.safetensors, z in a.safetensors)" in message
    sharded(tmp_path, shards, {"x00": "a.safetensors", "y": "b.safetensors"})
    message = refusal(tmp_path)
    assert f"{INDEX} does not name all tensors of its shards (x01 in a.safetensors, x02" in message
    assert "x10 in a.safetensors and 2 more)" in message
    assert "x11" not in message


def test_tensor_in_two_shards(tmp_path: Path) -> None:
    sharded(tmp_path, {"a.safetensors": ["x", "y"], "b.safetensors": ["y"]})
    assert "y is in both a.safetensors and b.safetensors" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("content", "piece"),
    [
        (b"", "is cut short: its header ends at byte 8, it has 0 bytes"),
        (b"\2\0\0\0", "is cut short: its header ends at byte 10, it has 4 bytes"),
        (b"version https://git-lfs.github.com/spec/v1", "is a Git LFS pointer, not the weights: run `git lfs pull`"),
        (b"\x80\2}q\0X\1\0 and more", "is no safetensors file: its header would have"),
        ((10**8 + 1).to_bytes(8, "little"), "is no safetensors file: its header would have 100000001 bytes"),
        (raw({})[:-1], "is cut short: its header ends at byte 10, it has 9 bytes"),
        (raw(b""), "is not valid JSON (Expecting value"),
        (raw(b"{"), "is not valid JSON"),
        (raw(b'{"x": 1}\0'), "is not valid JSON (Extra data"),
        (raw(b'{"\xff": 1}'), "is not valid JSON ('utf-8' codec"),
        (raw(b"[" * 10**5), "is not valid JSON (maximum recursion depth"),
        (raw(b'{"x": %s}' % (b"1" * 5000)), "is no size)"),
        (raw([1]), "is not a JSON object"),
        (raw(b'{"x": {}, "x": {}}'), "(duplicate key x)"),
        (raw(b'{"x": {"dtype": "F32", "dtype": "F32"}}'), "(duplicate key dtype)"),
        (raw({"__metadata__": {"format": 1}}), "__metadata__ of its header is not a map of strings"),
        (raw({"__metadata__": ["pt"]}), "__metadata__ of its header is not a map of strings"),
        (raw({"x": 3}), ": x does not have just dtype, shape and data_offsets"),
        (raw({"x": {"dtype": "F32", "shape": []}}), ": x does not have just dtype, shape and data_offsets"),
        (raw({"x": entry(0, 4) | {"more": 1}}, 4), ": x does not have just dtype, shape and data_offsets"),
        (raw({"x": entry(0, 4) | {"dtype": ["F32"]}}, 4), ": x has dtype ['F32'], shape [1], data_offsets [0, 4]"),
        (raw({"x": entry(0, 4) | {"shape": 1}}, 4), "shape 1, data_offsets [0, 4]"),
        (raw({"x": entry(0, 4) | {"shape": [1.0]}}, 4), "shape [1.0], data_offsets [0, 4]"),
        (raw({"x": entry(0, 4) | {"shape": [True]}}, 4), "shape [True], data_offsets [0, 4]"),
        (raw({"x": entry(0, 4) | {"shape": [-1, -1]}}, 4), "is not valid JSON (-1 is no size)"),
        (raw({"x": entry(0, 4) | {"data_offsets": [0, 4, 8]}}, 4), "shape [1], data_offsets [0, 4, 8]"),
        (raw({"x": entry(0, 4) | {"data_offsets": ["0", 4]}}, 4), "shape [1], data_offsets ['0', 4]"),
        (raw({"x": entry(0, 4, [4], "I8")}, 4), "x has unsupported dtype I8; F32, BF16, F16 are supported"),
        (raw({"x": entry(0, 4, [4], "F8_E4M3")}, 4), "x has unsupported dtype F8_E4M3; F32, BF16, F16 are supported"),
        (raw({"x": entry(0, 4, dtype="F33")}, 4), "unsupported dtype F33; F32, BF16, F16 are supported: give the bf16"),
        (raw({"x": entry(0, 8, [1])}, 8), "x (F32, [1]) needs 4 bytes, its data_offsets are [0, 8]"),
        (raw({"x": entry(4, 0, [1])}, 4), "x (F32, [1]) needs 4 bytes, its data_offsets are [4, 0]"),
        (raw({"x": entry(4, 8), "y": entry(0, 8)}, 8), ": x overlaps the tensor before it (it begins at 4, not at 8)"),
        (raw({"x": entry(8, 12), "y": entry(0, 4)}, 12), ": x leaves a hole before it (it begins at 8, not at 4)"),
        (raw({"x": entry(4, 8)}, 8), ": x leaves a hole before it (it begins at 4, not at 0)"),
        (raw({"x": entry(0, 8)}, 7), "is cut short: its header says 77 bytes, it has 76"),
        (raw({"x": entry(0, 8)}, 9), "is too long: its header says 77 bytes, it has 78"),
        (raw({}, 1), "is too long: its header says 10 bytes, it has 11"),
    ],
)
def test_r11_damaged_file(tmp_path: Path, content: bytes, piece: str) -> None:
    (tmp_path / "a.safetensors").write_bytes(content)
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"x": "a.safetensors"}}))
    message = refusal(tmp_path)
    assert str(tmp_path / "a.safetensors") in message
    assert piece in message
    assert re.search(
        ": (download or copy it again|run `git lfs pull` in its folder|give the bf16 checkpoint)$", message
    )


TENSORS = {
    "model.layers.0.self_attn.q_proj.weight": torch.arange(6.0).view(2, 3),
    "model.norm.weight": torch.ones(4, dtype=BF16),
    "empty": torch.zeros(10, 0, dtype=F16),
}
SOUND = save(TENSORS, {"format": "pt", "note": "much of a header may change and it stays a header"})
HEADER_SIZE = len(SOUND) - sum(tensor.nbytes for tensor in TENSORS.values())


def assert_refused_or_same(content: bytes) -> None:
    """Whatever is accepted, the package accepts as well, and reads the same."""
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / SINGLE
        file.write_bytes(content)
        try:
            folder = SafetensorsFolder(file.parent)
        except UserError:
            event("refused")
        else:
            event("accepted")
            assert_same_as_package(file, folder)


CHARACTERS = st.sampled_from(b'0123456789"{}[],:- \\')


@settings(max_examples=400)
@given(st.dictionaries(st.integers(0, HEADER_SIZE - 1), CHARACTERS | st.integers(0, 255), max_size=2))
def test_changed_bytes_of_a_header(changes: dict[int, int]) -> None:
    content = bytearray(SOUND)
    for position, byte in changes.items():
        content[position] = byte
    assert_refused_or_same(bytes(content))


@given(st.integers(0, len(SOUND)), st.integers(0, len(SOUND)), st.binary(max_size=10))
@example(len(SOUND), len(SOUND), b"")
def test_spliced_file(start: int, stop: int, between: bytes) -> None:
    """Bytes removed, inserted, doubled and cut off."""
    assert_refused_or_same(SOUND[:start] + between + SOUND[stop:])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 9) | st.floats() | st.sampled_from(["F32", "a.safetensors", "../x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["x", "shape"]), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def almost_headers(draw: st.DrawFn) -> tuple[dict[str, Any], int]:
    """Tensors one after the other, with at most one field or entry replaced, and the bytes of data."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    size = 0
    for name in "xy":
        shape = draw(st.lists(st.integers(0, 3), max_size=2))
        header[name] = entry(size, size + 4 * math.prod(shape), shape)
        size += 4 * math.prod(shape)
    if draw(st.booleans()):
        name = draw(st.sampled_from(["x", "y", "z", "__metadata__"]))
        field = draw(st.sampled_from(["dtype", "shape", "data_offsets", "format"]))
        new = draw(JSON | st.lists(st.integers(-1, 9), max_size=3) | st.sampled_from(["F32", "BF16", "F8_E4M3"]))
        header[name] = draw(st.sampled_from([new, header.get(name, {}) | {field: new}]))
    return header, size


@settings(max_examples=200)
@given(almost_headers())
def test_almost_sound_header(drawn: tuple[dict[str, Any], int]) -> None:
    assert_refused_or_same(raw(*drawn))


@given(
    st.one_of(JSON, st.fixed_dictionaries({"weight_map": st.dictionaries(st.sampled_from(["x", "y"]), JSON) | JSON}))
)
def test_any_json_as_an_index(index: Any) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = sharded(Path(name), {"a.safetensors": ["x"]})
        (folder / INDEX).write_text(json.dumps(index))
        try:
            assert set(SafetensorsFolder(folder).tensors) == {"x"}
        except UserError:
            return
        assert index["weight_map"] == {"x": "a.safetensors"}


def test_the_package_refuses_holes_too(tmp_path: Path) -> None:
    """So that the comparisons above are with a reader that checks."""
    (tmp_path / SINGLE).write_bytes(raw({"x": entry(4, 8)}, 8))
    with pytest.raises(SafetensorError), safe_open(tmp_path / SINGLE, "pt"):
        pass


FOLDER = Path("hf")
EXPECTED = {
    "embed.weight": ((8, 2), "vocab_size x hidden_size of config.json"),
    "norm.weight": ((2,), "hidden_size of config.json"),
}


def stored(**changes: StoredTensor | None) -> dict[str, StoredTensor]:
    """The expected tensors in bf16, with some replaced, added or (None) left out; `_` stands for a dot."""
    tensors: dict[str, StoredTensor | None] = {
        name: StoredTensor(FOLDER / "a.safetensors", BFLOAT16, shape) for name, (shape, _) in EXPECTED.items()
    }
    tensors |= {name.replace("_", "."): tensor for name, tensor in changes.items()}
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}


def checked(tensors: dict[str, StoredTensor], **options: Any) -> Dtype:
    options = {"folder": FOLDER, "dtype": None, "stated_dtype": None} | options
    return check_tensors(tensors, EXPECTED, **options)


def check_refusal(tensors: dict[str, StoredTensor], **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        checked(tensors, **options)
    return str(caught.value)


def of(dtype: Dtype, *shape: int) -> StoredTensor:
    return StoredTensor(FOLDER / "b.safetensors", dtype, shape)


def test_sound_tensors_give_their_dtype() -> None:
    assert checked(stored()) == BFLOAT16
    assert checked(stored(), stated_dtype=BFLOAT16) == BFLOAT16
    assert checked(stored(), stated_dtype=BFLOAT16, dtype=FLOAT32) == FLOAT32


def test_missing_and_extra_tensors() -> None:
    message = check_refusal(stored(norm_weight=None, other_weight=of(BFLOAT16, 1)))
    assert message == (
        "hf lacks 1 tensors (norm.weight) and has 1 that the model does not have (other.weight): "
        "give all the weights that belong to its config.json"
    )
    assert "hf has 1 that the model does not have (other.weight):" in check_refusal(
        stored(other_weight=of(BFLOAT16, 1))
    )
    expected = {f"x{i:02d}": ((1,), "") for i in range(12)}
    with pytest.raises(UserError, match=r"hf lacks 12 tensors \(x00, .*, x09 and 2 more\): give"):
        check_tensors({}, expected, folder=FOLDER, dtype=None, stated_dtype=None)


def test_biases_have_their_own_message() -> None:
    message = check_refusal(stored(q_bias=of(BFLOAT16, 2), other_weight=of(BFLOAT16, 1), norm_weight=None))
    assert message == (
        "hf/b.safetensors: the checkpoint has biases (q.bias) and the models of this project have none: "
        "give a checkpoint of a supported model"
    )


@pytest.mark.parametrize("shape", [(2, 8), (16,), (8, 2, 1), (8, 3)])
def test_wrong_shape(shape: tuple[int, ...]) -> None:
    message = check_refusal(stored(embed_weight=of(BFLOAT16, *shape)), dtype=BFLOAT16)
    assert message == (
        f"hf/b.safetensors: embed.weight has shape {list(shape)}, not [8, 2] "
        "(vocab_size x hidden_size of config.json): give the config.json that belongs to these weights"
    )


def test_dtypes() -> None:
    mixed = stored(norm_weight=of(FLOAT32, 2))
    message = check_refusal(mixed, stated_dtype=BFLOAT16)
    assert message == (
        "hf mixes dtypes (embed.weight is bfloat16, norm.weight is float32): choose the output's with --dtype"
    )
    assert checked(mixed, dtype=FLOAT16, stated_dtype=BFLOAT16) is FLOAT16
    message = check_refusal(stored(), stated_dtype=FLOAT32)
    assert message.startswith("hf/a.safetensors: ")
    assert message.endswith(" is bfloat16, but config.json says float32: choose the output's dtype with --dtype")
    assert checked(stored(), dtype=BFLOAT16, stated_dtype=FLOAT32) == BFLOAT16
